"""Which workers compute at the same time on the same cores: each then takes its share of them.

The threads of a kernel wait for each other at its end. Where two workers have a thread for every core, some
thread of each is always without one, and the others wait for it: together they gave half of what they give
when each has half of the threads (`tests/benchmarks/two_models.py`). Our kernels give the same bits on any
number of threads; torch's own operations keep theirs.

Workers of one user tell each other by a file in which each has a place, locked as long as the worker lives.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from samovar_server.engine.kernels import jit
from samovar_server.engine.kernels.kept import keep_to_ourselves

log = logging.getLogger(__name__)

PLACES = 64
"""Workers that can tell each other; further ones take all cores."""
NUMBER = struct.Struct("d")
BUSY_SECONDS = 5.0
"""For so long a worker is reckoned with that began a step and did not say that it is done: it was killed, or
its step is a very long one."""


class Board:
    """`places` hold for each worker until when it computes, in seconds; `own` is that of this one."""

    def __init__(self, places: bytearray | mmap.mmap, own: int) -> None:
        self._places = places
        self._own = own

    def tell(self, until: float) -> None:
        """Say until when this worker computes."""
        NUMBER.pack_into(self._places, NUMBER.size * self._own, until)

    def others(self, now: float) -> int:
        """How many others compute."""
        ends = [until for (until,) in NUMBER.iter_unpack(self._places)]
        del ends[self._own]
        return sum(until > now for until in ends)


class Cores:
    """What this worker takes of the cores. Belongs to the thread that computes; `now` tells the time."""

    def __init__(
        self, board: Board | None = None, count: int = 1, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`count` is how many there are to share. Without a `board` none are."""
        self._board = board
        self._count = count
        self._now = now

    def begin(self) -> None:
        """Before a step: let kernels take no more threads than this worker's share."""
        if self._board is not None:
            now = self._now()
            self._board.tell(now + BUSY_SECONDS)
            others = self._board.others(now)
            jit.limit_threads(max(1, self._count // (1 + others)) if others else None)

    def end(self) -> None:
        """There is nothing to compute now."""
        if self._board is not None:
            self._board.tell(0.0)


def shared_cores() -> Cores:
    """The cores that this process may use, shared with this user's other workers on them.

    Where they cannot tell each other, the log says why, and each takes all.
    """
    usable = getattr(os, "sched_getaffinity", lambda _: set(range(os.cpu_count() or 1)))(0)
    folder = Path(tempfile.gettempdir(), f"samovar-{os.getuid()}")
    try:
        keep_to_ourselves(folder)
        # Workers that are bound to other cores have a board of their own.
        board = _board(folder / f"cores-{sum(1 << core for core in usable):x}")
    except OSError as error:
        log.info("Workers do not share the cores, as they cannot tell each other by %s: %s", folder, error)
        return Cores()
    return Cores(board, len(usable))


def _board(file: Path) -> Board:
    """The board in `file` with the first place that is free. OSError when there is none."""
    # Open until the process ends: the lock goes with the first of its descriptors that is closed.
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(handle, PLACES * NUMBER.size)
    for place in range(PLACES):
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, NUMBER.size, NUMBER.size * place)
        except (BlockingIOError, PermissionError):  # somebody's
            continue
        return Board(mmap.mmap(handle, PLACES * NUMBER.size), place)
    os.close(handle)
    raise OSError(f"all {PLACES} places are taken")
