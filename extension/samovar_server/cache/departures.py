"""How models leave memory: unloads, evictions, expiry; and what is kept of those that failed.

Everything in the cache runs on the server's loop, and its decisions are not interrupted: see `manager`.
What takes time runs in tasks of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, Literal

from samovar_server.cache.backoff import NO_FAILURES, Failures, wait_seconds
from samovar_server.cache.clock import Clock, Timer
from samovar_server.cache.entry import Entry
from samovar_server.cache.ledger import Ledger, gigabytes
from samovar_server.cache.policy import expired, next_expiry
from samovar_server.errors import ModelUnloaded, SamovarError

Mode = Literal["drain", "now"]

LAST_COUNT_SECONDS = 0.2
"""How long a worker's last counts are waited for before it is ended."""


class Departures:
    """Ends what is in `entries`, which the manager and the ledger read."""

    def __init__(
        self, entries: dict[str, Entry], ledger: Ledger, *, clock: Clock, log: logging.Logger
    ) -> None:
        self._entries = entries
        self._ledger = ledger
        self._clock = clock
        self._log = log
        self._failures: dict[str, Failures] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._change = asyncio.Event()
        self._timer: Timer | None = None
        self._closed = False
        self.evictions = 0
        """Models that had to go for others."""

    def leave(self, entry: Entry, mode: Mode, reason: str | None, error: SamovarError | None = None) -> None:
        """Send an entry on its way out; `error` is for the requests that this cuts off."""
        entry.reason = reason
        if entry.state == "starting":
            assert entry.load_task is not None
            if not entry.doomed:  # a second cancellation would disturb the clean-up of the first
                entry.doomed = True
                entry.load_task.cancel()
        elif entry.state == "ready":
            entry.move("draining")
        elif entry.state == "failed":
            self._failures.pop(entry.plan.identity, None)
            self.end(entry)
            return
        if error is not None and (mode == "now" or entry.state == "starting"):
            entry.blame(error)
        if entry.state == "draining" and (mode == "now" or entry.idle):
            self._retire(entry)

    def after_use(self, entry: Entry) -> None:
        """See to what follows when a request has let go of `entry`."""
        if not entry.idle:
            return
        if entry.state == "draining":
            self._retire(entry)
        self.announce()

    def evict(self, keys: tuple[str, ...], cause: Entry, why: str) -> None:
        """Let models go that are in the way of `cause`; `why` follows "evicted to"."""
        for key in keys:
            entry = self._entries[key]
            self.evictions += 1
            cause.evicted.append(entry.plan.cache_key)
            size = gigabytes(entry.memory_bytes)
            self._log.info("evicting %s (%s) to %s", entry.plan.cache_key, size, why)
            entry.reason = f"evicted to {why}"
            entry.tell("evicted")
            self.leave(entry, "drain", entry.reason)

    def _retire(self, entry: Entry) -> None:
        if not entry.retiring:
            entry.retiring = True
            self.run(self._stop(entry))

    async def _stop(self, entry: Entry) -> None:
        assert entry.worker is not None
        try:
            with suppress(TimeoutError):  # what it has counted since it was asked last
                async with asyncio.timeout(LAST_COUNT_SECONDS):
                    await entry.ask()
            await entry.worker.stop()
        finally:
            self.end(entry)
            self.announce()

    def end(self, entry: Entry) -> None:
        """No process of `entry` is left: forget it."""
        entry.move("stopped")
        if self._entries.get(entry.plan.identity) is entry:
            del self._entries[entry.plan.identity]

    # Failures

    def fail(self, entry: Entry, error: SamovarError) -> None:
        """No process of `entry` is left, and `error` is why: keep it to be seen."""
        failures = self._failures.get(entry.plan.identity, NO_FAILURES)
        self._failures[entry.plan.identity] = failures.and_one_at(self._clock.now())
        entry.move("failed", error)

    def refuse_if_too_early(self, failed: Entry) -> None:
        """Raise what the model failed with, and when to try again, while another load has to wait."""
        failures = self._failures.get(failed.plan.identity, NO_FAILURES)
        seconds = wait_seconds(failures, self._clock.now())
        if seconds > 0:
            error = failed.failure()
            raise type(error)(
                f"{error.message} It has failed {failures.count} times in a row; requests load it again in "
                f"{seconds:.0f} s, POST /v1/models/load at once.",
                retry_after=max(round(seconds), 1),
            )

    def succeeded(self, entry: Entry) -> None:
        """A request was served, so the model works: its failures are forgotten."""
        if entry.state == "ready" and not entry.retiring:
            self._failures.pop(entry.plan.identity, None)

    # Time

    def _expire(self) -> None:
        for key in expired(self._ledger.holdings(), self._clock.now()):
            entry = self._entries[key]
            reason = f"unused for {entry.ttl:g} s" if entry.ttl > 0 else "not wanted after its use"
            self._log.info("unloading %s: %s", entry.plan.cache_key, reason)
            self.leave(entry, "drain", reason)
        self._schedule_expiry()

    def _schedule_expiry(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = next_expiry(self._ledger.holdings())
        if when is None or self._closed:
            return
        if when <= self._clock.now():  # a time to live that ends with the use
            self._expire()
        else:
            self._timer = self._clock.call_at(when, self._expire)

    def announce(self) -> None:
        """Wake the loads that wait for room: something has changed that may help them."""
        change, self._change = self._change, asyncio.Event()
        change.set()
        self._schedule_expiry()

    async def change(self) -> None:
        """Wait until something has changed that may give room."""
        await self._change.wait()

    # The end

    async def close(self) -> None:
        """End all workers, cancel all loads and await the end of it all. May be called twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for entry in list(self._entries.values()):
            self.leave(entry, "now", "the server stops", closing())
        while self._tasks:
            await asyncio.wait(self._tasks)

    def check_open(self) -> None:
        """Raise ModelUnloaded once the cache is being closed."""
        if self._closed:
            raise closing()

    def run(self, work: Coroutine[Any, Any, Any], *, context: Context | None = None) -> asyncio.Task[Any]:
        """Do `work` in a task that `close` waits for; without a `context` for the request at hand."""
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def closing() -> SamovarError:
    """What requests are told when the server stops."""
    return ModelUnloaded("The server is stopping. Start it again, then send the request again.")
