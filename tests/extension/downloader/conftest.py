from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from samovar_server.downloader import fetch, hub_api
from samovar_server.downloader.progress import Reporter
from samovar_server.downloader.retry import Backoff
from tests.fakes.fake_hub import FakeHub, serving

PATIENCE = 100.0
"""Seconds in which what must happen surely has, on any machine."""

WEIGHTS = b"weights" + b"." * 200_000

FILES = {
    "config.json": b"{}",
    "generation_config.json": b'{"eos_token_id": 2}',
    "tokenizer.json": b'{"a": 1}' + b" " * 5000,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle" * 1000,
    "modeling_tiny.py": b"import os",
    "onnx/model.safetensors": b"other" * 1000,
    "README.md": b"hello",
    "results.csv": b"1,2",
}
WANTED = {"README.md", "config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}


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


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with one repo, for huggingface_hub in this process; no token, no waiting between attempts."""
    with serving(FakeHub(files=dict(FILES))) as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        template = fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # This Hub answers at once; on a busy machine its thread may have to wait for a while.
        monkeypatch.setattr(hub_api, "ANSWER_SECONDS", PATIENCE)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", PATIENCE)
        monkeypatch.setattr(fetch, "TIMEOUT", PATIENCE)
        monkeypatch.setattr(hub_api, "BACKOFF", Backoff(first=0.0, attempts=3, longest_asked=0.0))
        monkeypatch.setattr(fetch, "BACKOFF", Backoff(first=0.0, longest_asked=0.0))
        yield fake
