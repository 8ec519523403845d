"""The cache's time: passed in, so that tests move it by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import Protocol


class Timer(Protocol):
    """Something that will happen unless it is cancelled."""

    def cancel(self) -> None:
        """See to it that it does not happen."""


class Clock(Protocol):
    """Tells the time in Unix seconds and calls back at a time."""

    def now(self) -> float:
        """Unix seconds; never goes back."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back once `now()` has reached `when`."""


class SystemClock:
    """The machine's monotonic clock, shown as Unix time.

    When somebody sets the machine's clock, models must not expire at once or stay for hours.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Unix seconds, as the machine's clock had it when this object was made."""
        return time.monotonic() + self._offset

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back on the running loop, in a context of its own: what time brings is nobody's request."""
        seconds = max(when - self.now(), 0.0)
        return asyncio.get_running_loop().call_later(seconds, callback, context=Context())


async def sleep(clock: Clock, seconds: float) -> None:
    """Return `seconds` later by `clock`."""
    done = asyncio.Event()
    timer = clock.call_at(clock.now() + seconds, done.set)
    try:
        await done.wait()
    finally:
        timer.cancel()
