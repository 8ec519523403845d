"""Brings files over HTTP so that nothing that has come is lost, however the process ends.

Each file grows in a partial of a stable name: the next attempt, of this process or of another one years
later, asks for the rest by a Range request. It gets its real name only when its size and its digest are
those that were announced. (https://www.rfc-editor.org/rfc/rfc9110#name-range-requests)
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import httpx
from filelock import FileLock

from samovar_server.downloader.checksum import Digest, checksum_mismatch
from samovar_server.downloader.failures import PullFailed, not_enough_space
from samovar_server.downloader.hub_api import refusal, unreachable
from samovar_server.downloader.plan import RepoFile
from samovar_server.downloader.retry import RETRIED_STATUSES, Backoff, asked_pause
from samovar_server.downloader.tally import Tally

PARALLEL_FILES = 4
READ_BYTES = 1 << 20
"""How much of a partial is read at once to take up its digest."""

SPARE_BYTES = 50_000_000
"""Disk space to leave free beyond the files themselves."""

CHECK_SPACE_EVERY = 64 << 20
"""Bytes written between two looks at how much space others have left."""

BACKOFF = Backoff()

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
"""Seconds; a connection that brings nothing for so long counts as dropped."""


@dataclass(frozen=True, slots=True)
class Task:
    """One file: where it comes from, where it grows, where it goes; whoever holds `lock` may bring it."""

    file: RepoFile
    url: str
    partial: Path
    final: Path
    lock: Path


class Dropped(Exception):
    """An attempt ended before the file did; another one may go on. `retry_after` is in seconds."""

    def __init__(self, failure: PullFailed, retry_after: float | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.retry_after = retry_after


class Stopped(Exception):
    """Another file has failed, so this one is not wanted any more."""


def remaining_bytes(tasks: Sequence[Task]) -> int:
    """How much is still to come, as far as the disk shows."""
    return sum(max(task.file.size - _size(task.partial), 0) for task in tasks if not task.final.is_file())


class Fetcher:
    """Fetches the files of one repo, several at once."""

    def __init__(self, repo: str, headers: Mapping[str, str], tally: Tally) -> None:
        self._repo = repo
        self._tally = tally
        self._stop = threading.Event()
        # Identity: byte positions count in the file as it is, not as a proxy may have packed it.
        # A redirect to another host loses the Authorization header; httpx takes care of that.
        self._client = httpx.Client(
            headers={**headers, "Accept-Encoding": "identity"}, timeout=TIMEOUT, follow_redirects=True
        )

    def fetch(self, tasks: Sequence[Task]) -> None:
        """Bring all files, or raise the first failure: PullFailed or OSError."""
        todo: queue.SimpleQueue[Task] = queue.SimpleQueue()
        results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for task in tasks:
            todo.put(task)

        def work() -> None:
            while not self._stop.is_set():
                try:
                    task = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    self.bring(task)
                except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                    results.put(error)
                else:
                    results.put(None)

        # Daemons, and not waited for at an interrupt: it ends the process at once, as a partial can be left
        # at any byte.
        names = [f"fetch-{number}" for number in range(min(PARALLEL_FILES, len(tasks)))]
        threads = [threading.Thread(target=work, name=name, daemon=True) for name in names]
        for thread in threads:
            thread.start()
        failure = next((error for error in (results.get() for _ in tasks) if error is not None), None)
        self._stop.set()
        for thread in threads:
            thread.join()
        self._client.close()
        if failure is not None:
            raise failure

    def bring(self, task: Task) -> None:
        """Bring one file, unless it is there; another process that is at it is waited for."""
        if not task.final.is_file():
            for folder in (task.partial.parent, task.final.parent, task.lock.parent):
                folder.mkdir(parents=True, exist_ok=True)
            # The lock file stays, as those of huggingface_hub do: removing it would let two in.
            with FileLock(task.lock):
                if not task.final.is_file():
                    self._complete(task)
        self._tally.finished(task.file.path)

    def _complete(self, task: Task) -> None:
        began_empty = _size(task.partial) == 0
        if not self._download(task):
            task.partial.unlink()
            # A partial of an earlier attempt may have been damaged since, by a power cut perhaps.
            if began_empty or not self._download(task):
                task.partial.unlink(missing_ok=True)
                raise checksum_mismatch(task.file.path)
        task.partial.replace(task.final)

    def _download(self, task: Task) -> bool:
        """Fill the partial; whether it is the file that was announced."""
        size = task.file.size
        if _size(task.partial) > size:
            task.partial.unlink()
        with task.partial.open("a+b") as file:
            digest = self._digest_of(file, task.file)
            best, failures = file.tell(), 0
            while file.tell() < size:
                try:
                    digest = self._attempt(task, file, digest)
                except Dropped as drop:
                    # Only what is further than ever counts as progress: a server without Range, which
                    # breaks off at the same byte each time, must come to an end.
                    failures = 0 if file.tell() > best else failures + 1
                    best = max(best, file.tell())
                    if BACKOFF.is_over(failures):
                        raise drop.failure from drop
                    self._pause(BACKOFF.delay(max(failures, 1), drop.retry_after))
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the data does
        return digest.hexdigest() == task.file.digest

    def _attempt(self, task: Task, file: IO[bytes], digest: Digest) -> Digest:
        """One request; what it brings is written as it comes. The digest, anew if the file began anew."""
        start, size = file.tell(), task.file.size
        with self._response(task, start) as response:
            if start and response.status_code == httpx.codes.OK:  # a server that knows no Range
                file.truncate(0)
                file.seek(0)
                start, digest = 0, Digest.of(task.file)
            _require_size(task, response, start)
            unchecked = 0
            for data in response.iter_raw():
                if self._stop.is_set():
                    raise Stopped
                if file.tell() + len(data) > size:
                    raise _wrong_size(task)
                file.write(data)
                file.flush()  # what has come is the next attempt's, even after kill -9
                digest.update(data)
                self._tally.arrived(len(data))
                self._tally.reached(task.file.path, file.tell())
                unchecked += len(data)
                if unchecked >= CHECK_SPACE_EVERY:
                    unchecked = 0
                    require_room(task.partial.parent, 0)
        if file.tell() < size:
            raise Dropped(unreachable(self._repo))
        return digest

    @contextmanager
    def _response(self, task: Task, start: int) -> Iterator[httpx.Response]:
        """The answer to a request for everything from `start` on; Dropped when it may come later."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._client.stream("GET", task.url, headers=headers) as response:
                status = response.status_code
                if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:  # its file ends before ours
                    raise _wrong_size(task)
                if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                    failure = refusal(self._repo, status, response.headers.get("X-Error-Code"))
                    if status in RETRIED_STATUSES:
                        raise Dropped(failure, asked_pause(response.headers, datetime.now(UTC)))
                    raise failure
                yield response
        except httpx.HTTPError as error:
            raise Dropped(unreachable(self._repo)) from error

    def _digest_of(self, file: IO[bytes], announced: RepoFile) -> Digest:
        """The digest of what is in the partial; the file is left at its end."""
        digest = Digest.of(announced)
        file.seek(0)
        while data := file.read(READ_BYTES):
            digest.update(data)
            self._tally.reached(announced.path, file.tell())
        return digest

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def require_room(folder: Path, needed: int) -> None:
    """Raise PullFailed when `folder`, or where it will be, has no room for `needed` more bytes."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE_BYTES:
        raise not_enough_space(folder, needed + SPARE_BYTES, free)


def _require_size(task: Task, response: httpx.Response, start: int) -> None:
    """Raise PullFailed unless the answer is the rest of a file of the announced size."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        expected = f"bytes {start}-{task.file.size - 1}/{task.file.size}"
        if response.headers.get("Content-Range") != expected:
            raise _wrong_size(task)
    elif int(response.headers.get("Content-Length", task.file.size)) != task.file.size:
        raise _wrong_size(task)


def _wrong_size(task: Task) -> PullFailed:
    task.partial.unlink(missing_ok=True)
    return PullFailed(
        "size_mismatch",
        f"{task.file.path} arrived with another size than the Hub announced ({task.file.size:,} bytes), so "
        "it was thrown away: pull again; if this happens again, the mirror or proxy in use is at fault.",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
