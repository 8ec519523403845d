"""HTTP to a worker on this machine: h11 on a plain socket, one connection for each request.

A streamed answer comes in hundreds of small pieces, each on its way to a waiting user while the worker
computes on the same cores. httpx takes about 130 µs of them for each piece, this about 60 (16 streams of
400 pieces on two cores); the parsing is h11's in both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import h11

CONNECT_SECONDS = 10.0
"""A worker listens on this machine and accepts at once; one that does not is hung."""

READ_BYTES = 65_536


class ConnectionBroken(Exception):
    """The worker cannot be reached, or ended the connection within its answer."""


class LoopbackAnswer:
    """An answer whose headers are here and whose body is still to come."""

    def __init__(self, exchange: _Exchange, response: h11.Response) -> None:
        self._exchange = exchange
        self._response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status_code

    def header(self, name: str) -> str | None:
        """The value of a header; None when the worker sent none."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self._response.headers if key == wanted), None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. To be read once."""
        while isinstance(event := await self._exchange.event(), h11.Data):
            yield bytes(event.data)

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])


@asynccontextmanager
async def post(url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[LoopbackAnswer]:
    """Send `body` to `url`; leaving the context closes the connection, and with it the request.

    Raises ConnectionBroken, here or while the answer is read.
    """
    parts = urlsplit(url)
    with _breaks():
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=READ_BYTES)
    try:
        exchange = _Exchange(reader, writer)
        await exchange.send(parts.path, {"Host": parts.netloc, "Connection": "close", **headers}, body)
        yield LoopbackAnswer(exchange, await exchange.response())
    finally:
        writer.transport.abort()  # nothing is left to send, and nobody reads what else comes


class _Exchange:
    """One request and its answer, as h11's events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = h11.Connection(h11.CLIENT)

    async def send(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        request = h11.Request(
            method="POST", target=path, headers=[*headers.items(), ("Content-Length", str(len(body)))]
        )
        for event in (request, h11.Data(body), h11.EndOfMessage()):
            self._writer.write(self._connection.send(event) or b"")
        with _breaks():
            await self._writer.drain()

    async def response(self) -> h11.Response:
        while not isinstance(event := await self.event(), h11.Response):
            pass  # 1xx
        return event

    async def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        with _breaks():
            while (event := self._connection.next_event()) is h11.NEED_DATA:
                self._connection.receive_data(await self._reader.read(READ_BYTES))
        return event


@contextmanager
def _breaks() -> Iterator[None]:
    # Only here, around the socket itself: OSErrors of those who read the answer are not the worker's.
    try:
        yield
    except (OSError, h11.RemoteProtocolError) as error:
        raise ConnectionBroken from error
