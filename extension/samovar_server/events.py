"""What happens to models, downloads and queues, for everybody who listens to `GET /v1/events`.

Listeners share one bounded history and each remembers where in it he is. So a slow one costs no memory:
when what he has not read yet is forgotten, he is told so by an event `missed`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from samovar_server.callers import Caller

JSON: TypeAlias = "str | int | float | bool | Mapping[str, JSON] | list[JSON] | None"

HELD_EVENTS = 2048
"""How many events are kept; with those of a load's progress that is some minutes of a busy server."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `kind` is "model", "download", "queue" or "missed"; ids rise by one.

    `audience` are the names of those who may hear of it beside the admins; None: everybody.
    """

    id: int
    kind: str
    data: Mapping[str, JSON]
    audience: frozenset[str] | None = None

    def is_for(self, caller: Caller) -> bool:
        """Whether `caller` may hear of it."""
        return self.audience is None or caller.admin or caller.name in self.audience


class EventBus:
    """Keeps the latest `held` events; the first one gets the id `first_id`.

    A server's ids should lie above those of the one before it (the time will do), so that a client that
    comes back after a restart learns that it has missed something. All methods belong to the loop's
    thread.
    """

    def __init__(self, *, held: int = HELD_EVENTS, first_id: int = 1) -> None:
        self._events: deque[Event] = deque(maxlen=held)
        self._next_id = first_id
        self._news = asyncio.Event()
        self._closed = False

    @property
    def newest(self) -> int:
        """The id of the latest event; whoever listens from now on begins after it."""
        return self._next_id - 1

    @property
    def closed(self) -> bool:
        """Whether nothing will happen any more."""
        return self._closed

    def publish(self, kind: str, data: Mapping[str, JSON], audience: frozenset[str] | None = None) -> None:
        """Tell all who listen, or only the admins and those of the `audience`."""
        self._events.append(Event(self._next_id, kind, data, audience))
        self._next_id += 1
        self._wake()

    def after(self, last: int) -> list[Event]:
        """The events after the one with the id `last`.

        When some of them are not held any more, or `last` is an id of another server's life, the first
        is a `missed` that tells the id from which on they are held.
        """
        first_held = self._events[0].id if self._events else self._next_id
        if first_held - 1 <= last <= self.newest:
            return [event for event in self._events if event.id > last]
        return [Event(first_held - 1, "missed", {"first_held": first_held}), *self._events]

    async def wait(self, last: int, timeout: float) -> bool:
        """Wait until there is something after `last`; False when nothing came within `timeout` seconds."""
        if self.newest == last and not self._closed:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                return False
        return True

    def close(self) -> None:
        """End all streams: the server stops."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
