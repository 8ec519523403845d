"""Asks a worker now and then how it is: a hang shows, and so does memory that nobody reckoned with."""

from __future__ import annotations

from collections.abc import Callable

from samovar_server.cache.clock import Clock, sleep
from samovar_server.cache.entry import Entry
from samovar_server.cache.health import Health, ailment, has_grown, observe

POLL_SECONDS = 2.0
"""How often a worker is asked, or more often where it is to be missed soon."""


class Watch:
    """Watches the worker of `entry` while it has requests, and once after the last of them.

    `on_hang` is told how a worker is lost that has been so for `patience` seconds; `on_growth` the bytes
    that it takes when they are more than it is counted with.
    """

    def __init__(
        self,
        entry: Entry,
        *,
        clock: Clock,
        patience: float,
        on_hang: Callable[[str], None],
        on_growth: Callable[[int], None],
    ) -> None:
        self._entry = entry
        self._clock = clock
        self._patience = patience
        self._on_hang = on_hang
        self._on_growth = on_growth

    async def run(self) -> None:
        """Watch until cancelled."""
        served, health = 0, Health(self._clock.now(), self._clock.now())
        while True:
            await sleep(self._clock, min(POLL_SECONDS, self._patience / 4))
            now = self._clock.now()
            busy = self._entry.leases > 0
            if not busy:
                health = Health(now, now)
            if not busy and self._entry.served == served:
                continue
            served = self._entry.served
            status = await self._entry.ask()
            health = observe(health, status, self._clock.now())
            if status is not None and has_grown(status, self._entry.memory_bytes):
                assert status.memory_bytes is not None
                self._on_growth(status.memory_bytes)
            if self._entry.leases > 0 and (how := ailment(health, self._clock.now(), self._patience)):
                self._on_hang(how)
