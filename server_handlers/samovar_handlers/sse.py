"""Server-sent events: a stream that keeps its client company while a model loads or a request waits.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html. Lines that begin with a
colon are comments, which clients ignore by that specification.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from tornado.iostream import StreamClosedError

from samovar_handlers.base import SamovarHandler
from samovar_server.loader.options import LoadProgress

GRACE_SECONDS = 0.5
"""How long a failure can still become the answer's HTTP status; then the header 200 is sent."""

KEEP_ALIVE_SECONDS = 5.0
"""The longest silence; proxies and clients take a longer one for a dead connection."""

DONE = b"data: [DONE]\n\n"


def open_stream(handler: SamovarHandler) -> None:
    """Set the headers of a stream of events; to be called before the first byte."""
    handler.set_header("Content-Type", "text/event-stream")
    handler.set_header("Cache-Control", "no-cache")
    handler.set_header("X-Accel-Buffering", "no")  # nginx would hold events back


def event(payload: bytes) -> bytes:
    """`payload` as one event."""
    return b"".join(b"data: " + line + b"\n" for line in payload.splitlines()) + b"\n"


def json_event(payload: Any) -> bytes:
    """`payload`, as JSON, as one event."""
    return event(json.dumps(payload).encode())


def progress_event(progress: LoadProgress) -> bytes:
    """How far a load is, as an event."""
    return json_event(asdict(progress))


def progress_comment(progress: LoadProgress | None) -> bytes:
    """How far a load is, as a comment; without one the request waits for its turn."""
    if progress is None or progress.phase in {"queued", "ready"}:
        return b": waiting\n\n"
    return f": loading {progress.fraction:.0%}\n\n".encode()


async def whole_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The bytes of `chunks`, cut only between events; what a broken stream leaves of one is dropped."""
    pending = b""
    async for chunk in chunks:
        whole, border, pending = (pending + chunk).rpartition(b"\n\n")
        if border:
            yield whole + border
    if pending:
        yield pending


class EventStream:
    """The answer of `handler` as a stream of events; use it with `async with`.

    The header goes out with the first event or after GRACE_SECONDS. Until the stream ends, progress
    is shown when it changes (`show` makes the bytes) and no silence lasts beyond KEEP_ALIVE_SECONDS.
    An exception becomes an event once the header is out; before, it is raised for a real status.
    """

    def __init__(
        self, handler: SamovarHandler, show: Callable[[LoadProgress], bytes] = progress_comment
    ) -> None:
        self._handler = handler
        self._show = show
        self._progress: LoadProgress | None = None
        self._news = asyncio.Event()
        self._sent_at: float | None = None  # by the loop's clock; None until the header is out

    async def __aenter__(self) -> Self:
        self._company = asyncio.create_task(self._keep_company())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        begun = await self.settle()
        if not begun or not isinstance(error, Exception) or isinstance(error, StreamClosedError):
            return False
        self._handler.log_exception(kind, error, trace)
        await self.send(json_event(self._handler.as_error(error).body()))
        return True

    @property
    def begun(self) -> bool:
        """Whether the header is out, so that nothing more can be said in it."""
        return self._sent_at is not None

    def on_progress(self, progress: LoadProgress) -> None:
        """Show `progress` as soon as the client can take it; only the latest is kept."""
        if progress != self._progress:
            self._progress = progress
            self._news.set()

    def loaded(self) -> None:
        """From here on the request waits for its turn, and comments say so."""
        self._progress = None
        self._news.clear()

    async def send(self, events: bytes) -> None:
        """Send whole events; returns when the client keeps up."""
        if self._sent_at is None:
            open_stream(self._handler)
        self._sent_at = asyncio.get_running_loop().time()
        self._handler.write(events)
        await self._handler.flush()

    async def settle(self) -> bool:
        """End comments and progress; says whether the header has been sent."""
        self._company.cancel()
        await asyncio.wait({self._company})
        if not self._company.cancelled():
            self._company.result()
        return self._sent_at is not None

    async def _keep_company(self) -> None:
        try:
            await asyncio.sleep(GRACE_SECONDS)
            while True:
                if self._news.is_set() and self._progress is not None:
                    self._news.clear()
                    await self.send(self._show(self._progress))
                elif self._silent_for() >= KEEP_ALIVE_SECONDS:
                    await self.send(progress_comment(self._progress))
                await self._news_or_silence()
        except StreamClosedError:
            return  # the handler is being cancelled for the same reason

    def _silent_for(self) -> float:
        if self._sent_at is None:
            return math.inf
        return asyncio.get_running_loop().time() - self._sent_at

    async def _news_or_silence(self) -> None:
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS - self._silent_for()):
                await self._news.wait()
        except TimeoutError:
            return
