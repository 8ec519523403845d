"""Compiled kernels on disk: what one process has compiled, the next need not.

What is in such a file will run. So it is taken from a folder only that nobody but its owner can write to, and
only if it is as it was written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

log = logging.getLogger(__name__)

FOLDER = "SAMOVAR_KERNELS"
"""The environment variable that names another folder; empty: nothing is kept."""
OTHERS_WRITE = 0o022
"""The bits of a folder's mode by which others may write to it."""


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """The machine code `name`: as it was kept, or else as `make` gives it, which is then kept.

    Where nothing can be kept the log says why, and the code is made each time.
    """
    folder = _folder()
    if folder is None:
        return make()
    code = None
    try:
        keep_to_ourselves(folder)
        code = _read(folder / name)
        if code is None:
            code = make()
            _write(folder / name, code)
    except OSError as error:
        log.info("Each process compiles its own kernels, as none are kept in %s: %s", folder, error)
    return make() if code is None else code


def _folder() -> Path | None:
    chosen = os.environ.get(FOLDER)
    if chosen is None:
        return user_cache_path("samovar", appauthor=False) / "kernels"
    return Path(chosen) if chosen else None


def keep_to_ourselves(folder: Path) -> None:
    """Make the folder if there is none. PermissionError when others could put something into it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & OTHERS_WRITE):
        raise PermissionError("others may write to it")


def _read(path: Path) -> bytes | None:
    """What `_write` has written; None when there is nothing, or not all of it."""
    if not path.exists():
        return None
    written = path.read_bytes()
    size = hashlib.sha256().digest_size
    digest, code = written[:size], written[size:]
    return code if digest == hashlib.sha256(code).digest() else None


def _write(path: Path, code: bytes) -> None:
    """Under its name only when it is whole: another process may look for it."""
    handle, part = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        Path(part).replace(path)
    except OSError:  # such as a full disk
        Path(part).unlink()
        raise
