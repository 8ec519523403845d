"""What takes disk space and is no model: parts of downloads, blobs without a name, conversions of nothing.

They are listed here and removed in `cleaning.py`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants

from samovar_server.inventory.locks import blob_lock, folder_lock

PARTIAL_SUFFIX = ".samovar-part"
"""Ends the names of files, and of hidden folders, that are still being fetched or were given up."""

FOREIGN_SUFFIX = ".incomplete"
"""Ends those of huggingface_hub, which never goes on from them."""

WORK_PREFIX = ".partial-"
"""Between a model's name and a random end: a hidden folder from which no later attempt goes on."""

Kind = Literal["partial", "orphan", "conversion"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or a folder. `model` is what it belongs to or came from; `modified` is in Unix seconds.

    A partial is a part of a download, one that runs right now included; an orphan is a blob in the Hugging
    Face cache that no snapshot refers to; a conversion is made of a GGUF file that is not there any more.
    Who works on it holds `lock_file`; `repo` is the folder in the Hugging Face cache that it is a blob of.
    """

    kind: Kind
    path: Path
    model: str
    size_bytes: int
    modified: float
    lock_file: Path
    repo: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """As the routes show it."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "model": self.model,
            "size_bytes": self.size_bytes,
            "modified": self.modified,
        }


def list_leftovers(folders: Sequence[Path], conversions: Path, current: Collection[Path]) -> list[Leftover]:
    """All that is in the model folders, in the Hugging Face cache and in the folder of conversions.

    `current` are the conversions of models that are there.
    """
    found = [left for repo in Path(constants.HF_HUB_CACHE).glob("models--*") for left in _in_repo(repo)]
    for folder in (*folders, conversions):
        for pattern in (f".*{PARTIAL_SUFFIX}", f".*{WORK_PREFIX}*"):
            found += [_growing(path, folder) for path in folder.rglob(pattern) if path.is_dir()]
    found += [
        _folder("conversion", path, path.name, path)
        for path in conversions.glob("[!.]*")
        if path.is_dir() and path not in current
    ]
    return sorted(found, key=lambda left: str(left.path))


def named_blobs(repo: Path) -> set[str]:
    """The names of the blobs that a snapshot of the repo refers to."""
    return {
        path.readlink().name  # one step: the blob itself may be a link to a store for several repos
        for path in (repo / "snapshots").rglob("*")
        if path.is_symlink()
    }


def _in_repo(repo: Path) -> Iterator[Leftover]:
    named: set[str] | None = None
    for blob in (repo / "blobs").glob("*"):
        if blob.name.endswith((PARTIAL_SUFFIX, FOREIGN_SUFFIX)):
            yield _blob("partial", blob, repo)
            continue
        named = named_blobs(repo) if named is None else named
        if blob.name not in named:
            yield _blob("orphan", blob, repo)


def _blob(kind: Kind, path: Path, repo: Path) -> Leftover:
    model = repo.name.removeprefix("models--").replace("--", "/")
    size, modified = _size_and_time(path)
    lock_file = blob_lock(repo, path.name.partition(".")[0])
    return Leftover(kind, path, model, size, modified, lock_file, repo)


def _growing(path: Path, folder: Path) -> Leftover:
    """A hidden folder, named for the model folder that grows in it."""
    named = path.name.removeprefix(".").removesuffix(PARTIAL_SUFFIX).partition(WORK_PREFIX)[0]
    target = path.parent / named
    return _folder("partial", path, target.relative_to(folder).as_posix(), target)


def _folder(kind: Kind, path: Path, model: str, target: Path) -> Leftover:
    parts = [_size_and_time(file) for file in path.rglob("*") if file.is_file()]
    modified = max([time for _, time in parts], default=path.stat().st_mtime)
    return Leftover(kind, path, model, sum(size for size, _ in parts), modified, folder_lock(target))


def _size_and_time(path: Path) -> tuple[int, float]:
    try:
        stat = path.stat()
    except FileNotFoundError:  # it has just become whole, or gone
        return 0, time.time()
    return stat.st_size, stat.st_mtime
