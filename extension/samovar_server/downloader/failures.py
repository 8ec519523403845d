"""Why a download fails, in sentences that name the next step."""

from __future__ import annotations

import errno
from pathlib import Path


class PullFailed(Exception):
    """The model could not be brought here. `code` is for programs, `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SourceUnavailable(PullFailed):
    """This source cannot be had from here; another one may still have the model."""


def not_enough_space(folder: Path, needed: int, free: int) -> PullFailed:
    """`needed` and `free` in bytes."""
    return PullFailed(
        "disk_full",
        f"The disk of {folder} has {free / 1e9:.1f} GB free and this needs {needed / 1e9:.1f} GB: "
        "free some space, or choose another place with --folder.",
    )


def from_os_error(error: OSError, folder: Path) -> PullFailed:
    """What an error of the file system at `folder` means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PullFailed("disk_full", f"The disk of {folder} is full: free some space and pull again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PullFailed(
            "folder_not_writable",
            f"{folder} cannot be written to: change its permissions, or choose another place with --folder.",
        )
    reason = error.strerror or type(error).__name__
    return PullFailed("disk_error", f"Writing to {folder} failed ({reason}); try again, or use --folder.")
