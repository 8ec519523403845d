"""Whether a file is the one it should be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.plan import RepoFile


class Digest:
    """The digest by which the Hub names a file: sha256 of a large one, git's sha1 of a small one."""

    def __init__(self, size: int, *, is_sha256: bool) -> None:
        if is_sha256:
            self._hash = hashlib.sha256()
        else:  # as git names a blob: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
            self._hash = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    @classmethod
    def of(cls, file: RepoFile) -> Self:
        """A digest of the kind that was announced for `file`, before its first byte."""
        return cls(file.size, is_sha256=file.is_large)

    def update(self, data: bytes) -> None:
        """Take in the next bytes."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """The digest of all that was taken in."""
        return self._hash.hexdigest()


def matches(path: Path, sha256: str) -> bool:
    """Whether the file has this checksum."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def checksum_mismatch(what: str) -> PullFailed:
    """A file is not the one that was announced: cut short, changed or tampered with."""
    return PullFailed(
        "checksum_mismatch",
        f"{what} arrived with another checksum than it must have, so it was thrown away: pull again; "
        "if this happens again, the package index, mirror or proxy in use hands out a different file.",
    )
