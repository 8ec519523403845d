"""How far something is: as a line of text, on a terminal, in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from shutil import get_terminal_size
from typing import TextIO

from samovar.records import LoadProgress

BAR_CELLS = 24
LOG_STEP = 0.25
"""In a log, where lines cannot be overwritten, a new line for every quarter is enough."""

WORTH_SECONDS = 1.0
LEAST_FRACTION = 0.05
"""Before so long and so far, the time left would be a guess."""

PHASES = {
    "queued": "waiting for memory",
    "starting": "starting a worker",
    "importing": "importing the engine",
    "weights": "reading the weights",
    "warmup": "warming up",
    "ready": "ready",
    "waiting": "waiting for the first token",
}
"""The server's names for the phases, for people."""


def bar(fraction: float) -> str:
    """A bar of text, filled up to `fraction`."""
    filled = round(min(max(fraction, 0.0), 1.0) * BAR_CELLS)
    return "█" * filled + "░" * (BAR_CELLS - filled)


def size(count: float) -> str:
    """Bytes as people read them, in powers of 1000 as disks are sold: 538 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit in {"B", "kB"} or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def share(done: float, total: float) -> str:
    """How much of how many bytes; nothing when the total is not known."""
    return f"{size(done)} of {size(total)}" if total else ""


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def describe(progress: LoadProgress, model: str) -> str:
    """One line on the way of `model` into memory."""
    if progress.phase == "waiting":
        return f"{model}: {PHASES['waiting']}"
    phase = PHASES.get(progress.phase, progress.phase)
    parts = [f"Loading {model}", bar(progress.fraction), f"{progress.fraction:4.0%}", phase]
    if progress.phase == "weights":
        parts.append(share(progress.bytes_done, progress.bytes_total))
    return "  ".join(part for part in parts if part)


def time_left(fraction: float, elapsed: float) -> float | None:
    """Seconds until something is done that got to `fraction` in `elapsed`; None while nothing can be said."""
    if elapsed < WORTH_SECONDS or not LEAST_FRACTION <= fraction < 1:
        return None
    return elapsed * (1 - fraction) / fraction


class Wait:
    """The way of a model into memory and to its first token, in a line that says how long it still is."""

    def __init__(self, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._began = clock()
        self.progress = LoadProgress("waiting", 0.0)

    def note(self, progress: LoadProgress) -> None:
        """It has come so far."""
        if (progress.phase == "waiting") != (self.progress.phase == "waiting"):
            self._began = self._clock()  # another wait, with a time of its own
        self.progress = progress

    def words(self) -> str:
        """The line, with what time is left, or what has passed where that cannot be said."""
        line, elapsed = describe(self.progress, self._model), self._clock() - self._began
        left = time_left(self.progress.fraction, elapsed)
        if left is not None:
            return f"{line}  about {duration(left)} left"
        return f"{line}  {duration(elapsed)}" if elapsed >= WORTH_SECONDS else line


def pulling(model: str, done: int, total: int, *words: str) -> str:
    """One line on the way of `model` to the disk: `done` of `total` bytes (0: nobody knows), and `words`."""
    fraction = done / total if total else 0.0
    far = [bar(fraction), f"{fraction:4.0%}", share(done, total)] if total else []
    return "  ".join([f"Pulling {model}", *far, *(word for word in words if word)])


class ProgressLine:
    """One line of progress on `stream`: overwritten on a terminal, written now and then elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._shown = ""
        self._step: tuple[str, int] | None = None

    def show(self, line: str, *, phase: str, fraction: float) -> None:
        """Say `line`. In a log it is skipped unless `phase` is new or `fraction` has moved on a good deal."""
        if self._terminal:
            if line != self._shown:
                # What is longer than the terminal is wide could not be overwritten.
                self._stream.write(f"\r\x1b[2K{line[: get_terminal_size().columns - 1]}")
                self._stream.flush()
        elif (step := (phase, int(fraction / LOG_STEP))) != self._step:
            self._step = step
            self._stream.write(f"{line}\n")
            self._stream.flush()
        self._shown = line

    def close(self) -> None:
        """Take the line off the terminal; in a log it stays."""
        if self._terminal and self._shown:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
        self._shown = ""
