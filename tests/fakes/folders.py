"""Model folders that are complete and hold nothing: for whoever only looks for models."""

from __future__ import annotations

import json
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_model(path: Path, name: str | None = None) -> Path:
    """A complete model; with a name, as if samovar had put it there."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    if name is not None:
        (path / "samovar.json").write_text(json.dumps({"name": name}))
    return path


def make_adapter(path: Path, base: str = "org/tiny", **config: object) -> Path:
    """A complete adapter."""
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "base_model_name_or_path": base} | config)
    )
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    return path


def cache_snapshot(cache: Path, repo: str, *, ref: str | None = "main", commit: str = COMMIT) -> Path:
    """A complete snapshot in the Hugging Face cache."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    if ref is not None:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return make_model(folder / "snapshots" / commit)


def gguf_files(folder: Path, *names: str) -> list[Path]:
    """Files in GGUF that hold nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"GGUF")
    return [folder / name for name in names]
