"""What a download tells while it runs: one JSON object a line, typed here."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TextIO

Phase = Literal["checking", "waiting", "downloading", "verifying", "extracting", "converting", "saving"]

INTERVAL_SECONDS = 0.5
"""How often a phase that runs says how far it is."""


@dataclass(frozen=True, slots=True)
class FileCount:
    """How far one file is, in bytes; `finished` once it is checked and in its place."""

    path: str
    bytes_done: int
    bytes_total: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """One step. Bytes count within the phase; 0 of 0 where nothing can be counted.

    `bytes_fetched` are those that this process has brought over the network, not what was here before.
    """

    event: ClassVar[str] = "progress"
    phase: Phase
    message: str
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_fetched: int = 0
    files_done: int = 0
    files: tuple[FileCount, ...] = ()
    """Of a repo with very many files those that are under way or still to come."""


@dataclass(frozen=True, slots=True)
class Planned:
    """It is known what to fetch; `revision` is the commit."""

    event: ClassVar[str] = "planned"
    revision: str
    files_total: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Done:
    """The model is on this machine. `revision` is the Hub's commit, if it came from there."""

    event: ClassVar[str] = "done"
    name: str
    path: str
    already_there: bool
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The model is not on this machine; `message` names the next step."""

    event: ClassVar[str] = "failed"
    code: str
    message: str


Event = Progress | Planned | Done | Failed


class Files(Protocol):
    """Who counts the files of a phase."""

    def bytes_fetched(self) -> int:
        """How much this process has brought over the network."""

    def files_done(self) -> int:
        """How many are checked and in their places."""

    def files(self) -> tuple[FileCount, ...]:
        """Each file, or those that matter most."""


class Reporter:
    """Writes events. May be used from several threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, event: Event) -> None:
        """Write one event at once. When nobody reads any more the process ends: nobody wants the model."""
        line = json.dumps({"event": event.event, **asdict(event)}, ensure_ascii=False)
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def phase(
        self,
        phase: Phase,
        message: str,
        measure: Callable[[], int] | None = None,
        total: int = 0,
        files: Files | None = None,
    ) -> Iterator[None]:
        """Tell twice a second how far the enclosed work is: `measure()` of `total` bytes, in which files."""
        stop = threading.Event()

        def tell(done: int) -> None:
            counts = (files.bytes_fetched(), files.files_done(), files.files()) if files else (done, 0, ())
            self.send(Progress(phase, message, done, total, *counts))

        def tell_progress() -> None:
            tell(min(measure(), total) if measure else 0)

        def keep_telling() -> None:
            while not stop.wait(INTERVAL_SECONDS):
                tell_progress()

        tell_progress()
        ticker = threading.Thread(target=keep_telling, name=f"progress-{phase}", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            stop.set()
            ticker.join()
        if total:
            tell(total)


def bytes_below(*roots: Path) -> int:
    """Bytes of all files below the folders, which may change or vanish meanwhile. Links count nothing."""
    total = 0
    for root in roots:
        for parent, _, names in os.walk(root):
            for name in names:
                path = Path(parent, name)
                try:
                    total += 0 if path.is_symlink() else path.stat().st_size
                except FileNotFoundError:
                    continue
    return total
