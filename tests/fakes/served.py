"""Fakes that answer HTTP in the test's own process, from the test's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tornado.httpserver import HTTPServer


class Servable(Protocol):
    """A fake that begins to serve on a free port when it is started."""

    def start(self) -> HTTPServer: ...


Fake = TypeVar("Fake", bound=Servable)


@contextmanager
def served(loop: asyncio.AbstractEventLoop, make: Callable[[], Fake]) -> Iterator[Fake]:
    """What `make` makes, on `loop`; it serves until the context is left."""

    async def start() -> tuple[Fake, HTTPServer]:
        fake = make()
        return fake, fake.start()

    async def stop() -> None:
        server.stop()
        await server.close_all_connections()

    fake, server = loop.run_until_complete(start())
    yield fake
    loop.run_until_complete(stop())
