"""What downloads that were cut off have left: parts to go on from, listed and removed on request."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

PARTIAL_SUFFIX = ".samovar-part"
"""Ends the names of files, and of hidden folders, that are still being fetched or were given up."""

FOREIGN_SUFFIX = ".incomplete"
"""Ends those of huggingface_hub, which never goes on from them."""


@dataclass(frozen=True, slots=True)
class Partial:
    """A part of a download. `modified` is in Unix seconds; `model` the repo or folder it belongs to."""

    path: Path
    model: str
    size_bytes: int
    modified: float


def list_partials(folders: Sequence[Path]) -> list[Partial]:
    """All parts in the model folders and in the Hugging Face cache, those being fetched right now too."""
    return sorted(_partials(folders), key=lambda partial: str(partial.path))


def remove_partials(folders: Sequence[Path], *, before: float) -> list[Partial]:
    """Remove the parts that nobody has written to since `before` (Unix seconds), and say which."""
    old = [partial for partial in list_partials(folders) if partial.modified < before]
    for partial in old:
        if partial.path.is_dir():
            shutil.rmtree(partial.path)
        else:
            partial.path.unlink(missing_ok=True)
    return old


def _partials(folders: Sequence[Path]) -> Iterator[Partial]:
    for repo in Path(constants.HF_HUB_CACHE).glob("models--*"):
        name = repo.name.removeprefix("models--").replace("--", "/")
        for suffix in (PARTIAL_SUFFIX, FOREIGN_SUFFIX):
            yield from (_file(path, name) for path in (repo / "blobs").glob(f"*{suffix}"))
    for folder in folders:
        for pattern in (f".*{PARTIAL_SUFFIX}", ".*.partial-*"):
            yield from (_folder(path, folder) for path in folder.rglob(pattern) if path.is_dir())


def _file(path: Path, model: str) -> Partial:
    try:
        stat = path.stat()
    except FileNotFoundError:  # it has just become whole
        return Partial(path, model, 0, time.time())
    return Partial(path, model, stat.st_size, stat.st_mtime)


def _folder(path: Path, folder: Path) -> Partial:
    parts = [_file(file, "") for file in path.rglob("*") if file.is_file()]
    named = path.name.removeprefix(".").removesuffix(PARTIAL_SUFFIX).partition(".partial-")[0]
    model = (path.parent / named).relative_to(folder).as_posix()
    modified = max([part.modified for part in parts], default=path.stat().st_mtime)
    return Partial(path, model, sum(part.size_bytes for part in parts), modified)
