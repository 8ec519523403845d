"""Work on threads of its own, and what it tells, heard on this one.

A cell that only waits for the network can be interrupted, and can say every second that it still waits,
when the network is read elsewhere. Whoever hears is the only one that displays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

TICK_SECONDS = 1.0
"""After so long a silence the hearer gets a None, to show that it goes on."""

END_SECONDS = 2.0
"""How long a thread that was stopped may take to end; one that does not is left to itself."""

Told = TypeVar("Told")
ToldBy = TypeVar("ToldBy", covariant=True)


class Work(Protocol[ToldBy]):
    """Something that takes a while, and can be ended from another thread at any time."""

    def run(self, tell: Callable[[ToldBy], None]) -> None:
        """Do it."""

    def stop(self) -> None:
        """End it; may come before it has begun, and after its end."""


@dataclass(frozen=True)
class _Over:
    """A thread has ended, by `error` if there is one."""

    error: BaseException | None = None


def heard(works: Iterable[Work[Told]], *, concurrency: int = 1) -> Generator[Told | None]:
    """Do `works`, so many at a time, and yield what they tell as they tell it; None after a silence.

    `works` may be made as they are needed. What a work raises is raised here and ends the others, and so
    does closing the generator.
    """
    crew = _Crew(works)
    threads = [
        threading.Thread(target=crew.work, name="samovar-work", daemon=True)
        for _ in range(max(concurrency, 1))
    ]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            try:
                item = crew.said.get(timeout=TICK_SECONDS)
            except Empty:
                yield None
                continue
            if not isinstance(item, _Over):
                yield item
                continue
            running -= 1
            if item.error is not None:
                raise item.error
    finally:
        crew.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join(END_SECONDS)


class _Crew(Generic[Told]):
    """What the threads share: the works still to be done, and those that are being done."""

    def __init__(self, works: Iterable[Work[Told]]) -> None:
        self.said: SimpleQueue[Told | _Over] = SimpleQueue()
        self._works = iter(works)
        self._lock = threading.Lock()
        self._running: set[Work[Told]] = set()
        self._stopped = False

    def work(self) -> None:
        """What each thread does: one work after the other."""
        try:
            while (work := self._next()) is not None:
                try:
                    work.run(self.said.put)
                finally:
                    with self._lock:
                        self._running.discard(work)
        except BaseException as error:  # noqa: BLE001 - told to the one who hears, and raised there
            self.said.put(_Over(error))
        else:
            self.said.put(_Over())

    def stop(self) -> None:
        """End what runs; nothing is begun any more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for work in running:
            work.stop()

    def _next(self) -> Work[Told] | None:
        with self._lock:
            work = None if self._stopped else next(self._works, None)
            if work is not None:
                self._running.add(work)
            return work
