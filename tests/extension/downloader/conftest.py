from __future__ import annotations

import io
import json
from typing import Any

import pytest

from samovar_server.downloader.progress import Reporter


class Recorder(Reporter):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        super().__init__(self.stream)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def phases(self) -> list[str]:
        """The phases in their order, each once."""
        return list(dict.fromkeys(event["phase"] for event in self.events if event["event"] == "progress"))


@pytest.fixture
def reporter() -> Recorder:
    return Recorder()
