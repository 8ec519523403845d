from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty model folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a Hugging Face cache of this test's own would be."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache
