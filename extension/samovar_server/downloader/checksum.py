"""Whether a file is the one it should be."""

from __future__ import annotations

import hashlib
from pathlib import Path

from samovar_server.downloader.failures import PullFailed


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
