"""Where the safetensors are kept that were made of a model in GGUF."""

from __future__ import annotations

import hashlib
from pathlib import Path


def conversion_of(gguf: Path, conversions: Path) -> Path:
    """The folder for the model whose first file is `gguf`; another one when that file changes."""
    stat = gguf.stat()
    made_of = f"{gguf.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"
    return conversions / f"{gguf.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
