"""How many bytes of each file are here, counted by the threads that bring them."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from samovar_server.downloader.progress import FileCount

MAX_FILES = 100
"""Of how many files an event tells, so that it stays short."""


class Tally:
    """Counts up only: a file that has to be fetched again shows no progress until it is past where it was."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._lock = threading.Lock()
        self._sizes = dict(sizes)
        self._done = dict.fromkeys(sizes, 0)
        self._finished: set[str] = set()
        self._fetched = 0

    def arrived(self, count: int) -> None:
        """So many bytes more have come over the network."""
        with self._lock:
            self._fetched += count

    def reached(self, path: str, position: int) -> None:
        """So many bytes of the file are on disk."""
        with self._lock:
            self._done[path] = max(self._done[path], min(position, self._sizes[path]))

    def finished(self, path: str) -> None:
        """The file is whole, checked, and in its place."""
        with self._lock:
            self._done[path] = self._sizes[path]
            self._finished.add(path)

    def bytes_fetched(self) -> int:
        """What has come over the network, what came twice included."""
        with self._lock:
            return self._fetched

    def bytes_done(self) -> int:
        """Of all files."""
        with self._lock:
            return sum(self._done.values())

    def files_done(self) -> int:
        """How many files are in their places."""
        with self._lock:
            return len(self._finished)

    def files(self) -> tuple[FileCount, ...]:
        """Each file, in the order of the plan; of more than MAX_FILES those that are not finished."""
        with self._lock:
            told = [
                FileCount(path, done, self._sizes[path], path in self._finished)
                for path, done in self._done.items()
            ]
        if len(told) > MAX_FILES:
            told.sort(key=lambda file: (file.finished, file.bytes_done == 0))
        return tuple(told[:MAX_FILES])
