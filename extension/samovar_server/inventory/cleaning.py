"""Removes leftovers, except those that somebody is at work on, in this process or in any other one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from samovar_server.inventory.leftovers import Leftover, named_blobs
from samovar_server.inventory.locks import undisturbed


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What was removed, or would be, and what stays because somebody is at work on it."""

    removed: tuple[Leftover, ...]
    in_use: tuple[Leftover, ...]

    @property
    def freed_bytes(self) -> int:
        """How much space that gives back."""
        return sum(left.size_bytes for left in self.removed)


def clean(leftovers: Sequence[Leftover], *, dry_run: bool = False) -> Cleaning:
    """Remove them; with `dry_run` only say what would go."""
    removed: list[Leftover] = []
    in_use: list[Leftover] = []
    for left in leftovers:
        with undisturbed(left.lock_file, left.repo) as is_free:
            if not is_free:
                in_use.append(left)
            elif _is_still_left(left):
                removed.append(left)
                if not dry_run:
                    _remove(left)
    return Cleaning(tuple(removed), tuple(in_use))


def _is_still_left(left: Leftover) -> bool:
    """Before the lock was held, a download may have come to its end."""
    is_named = left.kind == "orphan" and left.repo is not None and left.path.name in named_blobs(left.repo)
    return not is_named and (left.path.exists() or left.path.is_symlink())


def _remove(left: Leftover) -> None:
    if left.path.is_dir():
        shutil.rmtree(left.path)
        return
    left.path.unlink()
    # With its last blob a repo that has no snapshot is gone: huggingface_hub calls an empty one corrupted.
    repo = left.repo
    if repo is not None and not any(path.is_file() for path in repo.rglob("*") if "refs" not in path.parts):
        shutil.rmtree(repo)
