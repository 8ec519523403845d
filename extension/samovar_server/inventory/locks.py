"""Locks, by files, between whoever brings models and whoever cleans up: in this process or in others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, ReadWriteLock, Timeout
from huggingface_hub import constants


def blob_lock(repo: Path, blob: str) -> Path:
    """The lock file that huggingface_hub takes, too, for a blob of the repo's folder in its cache."""
    return _locks(repo) / f"{blob}.lock"


def folder_lock(folder: Path) -> Path:
    """The lock file of a model folder that is being made."""
    return folder.parent / f".{folder.name}.lock"


@contextmanager
def at_work(repo: Path) -> Iterator[None]:
    """A download is at work on the repo's folder in the Hugging Face cache; several may be.

    Its blobs have no name in a snapshot before its end: for others they look like orphans until then.
    """
    with _repo_lock(repo).read_lock():
        yield


@contextmanager
def undisturbed(lock_file: Path, repo: Path | None) -> Iterator[bool]:
    """Hold a lock file and, if it is that of a blob, keep downloads off its repo.

    False, at once, when somebody is at work there.
    """
    with ExitStack() as held:
        try:
            if repo is not None:
                held.enter_context(_repo_lock(repo).write_lock(blocking=False))
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock_file, timeout=0))
        except Timeout:
            yield False
            return
        yield True


def _repo_lock(repo: Path) -> ReadWriteLock:
    _locks(repo).mkdir(parents=True, exist_ok=True)
    return ReadWriteLock(_locks(repo) / "samovar.db", is_singleton=False)


def _locks(repo: Path) -> Path:
    return Path(constants.HF_HUB_CACHE) / ".locks" / repo.name
