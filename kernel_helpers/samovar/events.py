"""`GET /v1/events` as it is heard: what happens to models, downloads and queues, until told to stop."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from samovar.errors import ConnectionLost
from samovar.stream import Data, parse_events

OPEN = "open"
"""The kind of the first event, which is not the server's: from here on nothing is missed."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `kind` is "open", or the server's: "model", "download", "queue", "missed"."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


class EventStream:
    """The events from now on; iterate over it once. `close` ends that from any thread, at once."""

    def __init__(self, connect: Callable[[], AbstractContextManager[httpx.Response]]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Event]:
        """Raises what `Session`'s methods raise; just ends after `close`."""
        try:
            with self._connect() as response:
                with self._lock:
                    if self._closed:
                        return
                    self._socket = response.extensions["network_stream"].get_extra_info("socket")
                yield Event(OPEN)
                for heard in parse_events(response.iter_bytes()):
                    if isinstance(heard, Data):
                        yield Event(heard.event, json.loads(heard.text))
        except ConnectionLost:
            if not self._closed:
                raise
        finally:
            with self._lock:
                self._socket = None

    def close(self) -> None:
        """Stop listening. Closing the response would not wake a thread that waits for its next bytes."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with suppress(OSError):  # the server was faster
                    self._socket.shutdown(socket.SHUT_RDWR)
