"""HTTP to a worker on this machine: httptools' parser on a plain socket, one connection for each request.

A streamed answer comes in hundreds of small pieces, each on its way to a waiting user while the worker
computes on the same cores. Parsing a piece takes httptools (uvicorn's parser, of Node.js's llhttp) 0.2 µs of
them and h11 10; what arrived while nobody was reading is one piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 10.0
"""A worker listens on this machine and accepts at once; one that does not is hung."""

READ_BYTES = 16_384
"""What is taken from the socket at once."""

AHEAD_BYTES = 65_536
"""So much of an answer may lie here unread. Then the socket fills, and the worker waits for the reader."""


class ConnectionBroken(Exception):
    """The worker cannot be reached, or ended the connection within its answer."""


class LoopbackAnswer:
    """An answer whose headers are here and whose body is still to come."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._exchange.status

    def header(self, name: str) -> str | None:
        """The value of a header; None when the worker sent none."""
        value = self._exchange.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. To be read once."""
        while piece := await self._exchange.piece():
            yield piece

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])


@asynccontextmanager
async def post(url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[LoopbackAnswer]:
    """Send `body` to `url`; leaving the context closes the connection, and with it the request.

    Raises ConnectionBroken, here or while the answer is read.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    assert parts.port is not None, url
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, exchange = await loop.create_connection(_Exchange, parts.hostname, parts.port)
    except OSError as error:
        raise ConnectionBroken from error
    try:
        transport.write(_request(parts.path, {"Host": parts.netloc, **headers}, body))
        await exchange.head()
        yield LoopbackAnswer(exchange)
    finally:
        transport.abort()  # nothing is left to send, and nobody reads what else comes


def _request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header of a request to a worker has more than one line")
    head = "\r\n".join([*lines, "Connection: close", f"Content-Length: {len(body)}", "", ""])
    return head.encode("latin-1") + body


class _Exchange(asyncio.BufferedProtocol):
    """One answer between its two sides: the socket and the parser fill it, who sent the request reads it.

    The parser's callbacks are those of httptools.HTTPProtocol. asyncio.Protocol would be given each piece in
    a new buffer of 256 KiB.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._parser = httptools.HttpResponseParser(self)
        self._buffer = bytearray(READ_BYTES)
        self._unread = bytearray()
        self._has_head = self._has_all = False
        self._failure: Exception | None = None
        self._news = asyncio.Event()

    # Who sent the request

    async def head(self) -> None:
        """Wait for the status and the headers."""
        while not self._has_head:
            await self._more()

    async def piece(self) -> bytes:
        """What has arrived of the body since the last piece, or comes next; nothing at the end."""
        while not self._unread and not self._has_all:
            await self._more()
        piece = bytes(self._unread)
        self._unread.clear()
        self._transport.resume_reading()
        return piece

    async def _more(self) -> None:
        if self._failure is not None:
            raise ConnectionBroken from self._failure
        self._news.clear()
        await self._news.wait()

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except httptools.HttpParserError as error:
            self._failure = error
            self._transport.abort()
        if len(self._unread) > AHEAD_BYTES:
            self._transport.pause_reading()
        self._news.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._failure = self._failure or error or EOFError("the worker closed the connection")
        self._news.set()

    # The parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= HTTPStatus.OK  # 1xx goes before the answer

    def on_body(self, body: bytes) -> None:
        self._unread += body

    def on_message_complete(self) -> None:
        self._has_all = self._has_head
