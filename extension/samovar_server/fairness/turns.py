"""The requests that wait for their turn, of all models: `policy` says who is next, here they wait."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field

from samovar_server.errors import QueueFull
from samovar_server.fairness.policy import Capacity, Costs, FairQueue, Request

REMEMBERED_ENDS = 16
"""The latest turns, by whose ends the time is judged until a place is free."""
LONGEST_RETRY = 60


@dataclass(slots=True)
class _Line:
    """What stands before one model. `ends` are the times at which turns ended."""

    queue: FairQueue
    waiting: dict[Request, asyncio.Future[None]] = field(default_factory=dict)
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED_ENDS))

    def admit(self) -> None:
        for request in self.queue.admit():
            future = self.waiting.pop(request)
            if not future.done():  # else it was cancelled, and its task will give the turn back
                future.set_result(None)


@dataclass(frozen=True, slots=True)
class Turn:
    """A request that was let in."""

    request: Request
    _queue: FairQueue

    def charge(self, *, prompt: int = 0, output: int = 0) -> None:
        """Count work that has been done for it, in tokens."""
        self._queue.charge(self.request, prompt=prompt, output=output)


class Turns:
    """Gives turns, in an order of its own for each model.

    Of one user at most `max_queue` sequences wait for a model: who sends more than that is refused, and
    nobody else is. `now` tells the time in seconds.
    """

    def __init__(self, costs: Costs, max_queue: int, now: Callable[[], float]) -> None:
        self._costs = costs
        self._max_queue = max_queue
        self._now = now
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def turn(
        self,
        model: str,
        capacity: Capacity,
        request: Request,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> AsyncIterator[Turn]:
        """Wait for the turn of `request` at `model`, a cache key, and hold it.

        `waiting` is entered as long as it waits. Raises QueueFull when it may not wait.
        """
        line = self._lines.setdefault(model, _Line(FairQueue(capacity, self._costs)))
        line.queue.capacity = capacity
        before = line.queue.waiting(request.user)
        admitted = line.waiting[request] = asyncio.get_running_loop().create_future()
        line.queue.add(request)
        line.admit()
        try:
            if not admitted.done():
                self._refuse_when_full(line, request, before)
                with waiting():
                    await admitted
            yield Turn(request, line.queue)
        finally:
            if line.waiting.pop(request, None) is None:  # it was let in
                line.ends.append(self._now())
            line.queue.leave(request)
            line.admit()

    def waiting(self, model: str) -> int:
        """Sequences that wait for their turn at `model`."""
        line = self._lines.get(model)
        return line.queue.waiting() if line is not None else 0

    def _refuse_when_full(self, line: _Line, request: Request, before: int) -> None:
        # Those let in ahead of their slots wait, too. A request larger than the queue may be all of it.
        room = self._max_queue - line.queue.capacity.ahead
        if before + max(min(request.sequences, room), 1) > room:
            seconds = self._retry_after(line)
            raise QueueFull(
                f"{before + line.queue.capacity.ahead} requests of yours wait for this model already. "
                f"Try again in {seconds} s.",
                retry_after=seconds,
            )

    def _retry_after(self, line: _Line) -> int:
        """When the next place will be free, by the pace at which turns have ended of late."""
        if not line.ends:
            return 1
        return max(1, min(LONGEST_RETRY, math.ceil((self._now() - line.ends[0]) / len(line.ends))))
