"""What the tests of the notebooks in git share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks.jupyter import Jupyter, jupyter


@pytest.fixture(scope="module")
def demo_server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A server with the real model, for the tests of one module."""
    with jupyter(tmp_path_factory.mktemp("demo"), f"--Workbench.model_folders={demo_model.parent}") as server:
        yield server
