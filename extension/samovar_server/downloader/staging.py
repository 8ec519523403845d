"""Puts a model folder in its place whole or not at all, however the process ends.

A model grows in a hidden folder beside its place, on the same file system, and is renamed there when
it is complete. One lock a model lets one process do so at a time; what a killed one left behind is
removed by the next.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from samovar_server.downloader.failures import PullFailed, not_enough_space
from samovar_server.downloader.progress import INTERVAL_SECONDS, Progress, Reporter
from samovar_server.inventory.leftovers import PARTIAL_SUFFIX, WORK_PREFIX
from samovar_server.inventory.locks import folder_lock
from samovar_server.inventory.scan import PROVENANCE_FILE


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model folder comes from; kept in it as samovar.json. `sha256` by file name."""

    name: str
    source: str
    sha256: dict[str, str] = field(default_factory=dict)
    license: str | None = None
    revision: str | None = None


@contextmanager
def exclusive(target: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the lock of `target`, after whoever has it; what dead processes left is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder_lock(target))
    while True:
        try:
            lock.acquire(timeout=INTERVAL_SECONDS)
            break
        except Timeout:
            reporter.send(Progress("waiting", "another process is bringing this model; waiting for it"))
    try:
        for leftover in target.parent.glob(f"{_work_prefix(target)}*"):
            shutil.rmtree(leftover)
        yield
    finally:
        lock.release()


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """A fresh hidden folder beside `target`, gone at the end. Hold the lock of `target`."""
    work = Path(tempfile.mkdtemp(prefix=_work_prefix(target), dir=target.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)  # what stays is removed by the next start


@contextmanager
def kept_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` that the next attempt finds again, gone at the end if all went well.

    Hold the lock of `target`.
    """
    work = target.parent / f".{target.name}{PARTIAL_SUFFIX}"
    work.mkdir(exist_ok=True)
    try:
        yield work
    except BaseException:
        if not any(path.is_file() for path in work.rglob("*")):
            shutil.rmtree(work)
        raise
    shutil.rmtree(work)


def _work_prefix(target: Path) -> str:
    return f".{target.name}{WORK_PREFIX}"


def require_space(folder: Path, needed: int) -> None:
    """Raise PullFailed when the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise not_enough_space(folder, needed, free)


def require_ours(target: Path) -> None:
    """Raise PullFailed when `target` holds files that samovar did not put there."""
    is_free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not is_free and not (target / PROVENANCE_FILE).is_file():
        raise PullFailed(
            "folder_taken",
            f"{target} exists and holds no complete model of samovar's: move it away and pull again.",
        )


def publish(model: Path, target: Path, provenance: Provenance) -> None:
    """Move the finished folder `model` to `target`, replacing only what samovar itself put there."""
    record = {**asdict(provenance), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    (model / PROVENANCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    mask = _umask()
    for path in [*model.rglob("*"), model]:
        # Some writers make their files private; a model folder may be shared.
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        _to_disk(path)
    if target.exists():
        require_ours(target)
        target.rename(model.with_name(f"{model.name}-replaced"))
    model.replace(target)
    _to_disk(target.parent)


def _to_disk(path: Path) -> None:
    """Past a power cut, too: a rename may reach the disk before the files do."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
