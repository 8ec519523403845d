"""Ending answers that are under way from another thread than the one that reads them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

from samovar.errors import Stopped


class Abort:
    """Once told, every answer that it covers ends by Stopped, those to come as soon as they begin."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._told = False

    def tell(self) -> None:
        """End all answers. To close a response would not wake a thread that waits for its next bytes."""
        with self._lock:
            self._told = True
            for connection in self._sockets:
                with suppress(OSError):  # the server was faster
                    connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def covers(self, response: httpx.Response) -> Iterator[None]:
        """While it is read, `response` can be ended by `tell`."""
        connection: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
        with self._lock:
            if self._told:
                raise Stopped
            self._sockets.add(connection)
        try:
            yield
        except httpx.TransportError:
            if self._told:
                raise Stopped from None
            raise
        finally:
            with self._lock:
                self._sockets.discard(connection)
