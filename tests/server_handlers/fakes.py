"""A workbench and a worker in the test's own process, each scripted by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

from samovar_server.cache.records import CacheStats, DeviceMemory, EngineStats, LoadedModel, WorkerAddress
from samovar_server.errors import ModelCrashed, SamovarError
from samovar_server.loader.options import LoadOptions, LoadProgress, ProgressCallback
from samovar_server.workbench import Lease, ModelCard, Workbench

Become = Callable[[str], None]
"""Says who sends the requests from now on."""

SECRET = "worker-secret"
WEIGHTS = LoadProgress("weights", 0.43, bytes_done=43, bytes_total=100)

MODEL = LoadedModel(
    cache_key="tiny|transformers|cpu|float32|none|64",
    model="org/tiny",
    model_path="/models/tiny",
    backend="transformers",
    device="cpu",
    dtype="float32",
    quantization="none",
    state="ready",
    memory_bytes=1000,
    in_flight=0,
    queued=0,
    pinned=False,
    loaded_at=1.0,
    last_used=2.0,
    expires_at=302.0,
    ttl=300.0,
    ttl_remaining=300.0,
    context_length=64,
    load_seconds={"weights": 1.0},
    backend_reason="it was asked for",
)


class FakeLease(Lease):
    waits: asyncio.Event
    waits_no_more: asyncio.Event

    @contextmanager
    def queued(self) -> Iterator[None]:
        self.waits.set()
        try:
            yield
        finally:
            self.waits_no_more.set()

    def failure(self) -> SamovarError:
        return ModelCrashed("The worker of org/tiny ended. Send the request again.")


class FakeWorkbench(Workbench):
    """Hands out leases on `worker_url`; `script` runs before, to wait, to report progress or to raise."""

    def __init__(self, worker_url: str, **traits: Any) -> None:
        super().__init__(**traits)
        self.worker_url = worker_url
        self.script: Callable[[ProgressCallback], Awaitable[None]] | None = None
        self.cards = [ModelCard("org/tiny", 1, "org", "/models/tiny", loaded=True)]
        self.calls: list[dict[str, Any]] = []
        self.held = 0
        self.waits = asyncio.Event()
        self.waits_no_more = asyncio.Event()
        self.abandoned = asyncio.Event()
        self.unloaded = [MODEL]

    async def models(self) -> list[ModelCard]:
        return self.cards

    def acquire(
        self,
        model: str | None,
        options: LoadOptions,
        *,
        route: str | None = None,
        fields: frozenset[str] = frozenset(),
        ttl: float | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Any:
        self.calls.append({"model": model, "options": options, "ttl": ttl})
        return self._hold(on_progress)

    @asynccontextmanager
    async def _hold(self, on_progress: ProgressCallback | None) -> AsyncIterator[Lease]:
        await self._run_script(on_progress)
        self.held += 1
        try:
            lease = FakeLease(self.worker_url, SECRET, MODEL)
            lease.waits, lease.waits_no_more = self.waits, self.waits_no_more
            yield lease
        finally:
            self.held -= 1

    async def _run_script(self, on_progress: ProgressCallback | None) -> None:
        if self.script is None:
            return
        try:
            await self.script(on_progress or (lambda progress: None))
        except asyncio.CancelledError:
            self.abandoned.set()
            raise

    async def load(
        self,
        model: str | None,
        options: LoadOptions,
        *,
        ttl: float | None = None,
        pin: bool | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> LoadedModel:
        self.calls.append({"model": model, "options": options, "ttl": ttl, "pin": pin})
        await self._run_script(on_progress)
        return replace(MODEL, pinned=bool(pin))

    def loaded(self) -> list[LoadedModel]:
        return [MODEL]

    async def engines(self) -> list[EngineStats]:
        return []

    def workers(self) -> list[WorkerAddress]:
        return []

    def stats(self) -> CacheStats:
        return CacheStats(1, 0, 4, 3, 1, 0.75, 0, 0.0, 1.0, [DeviceMemory("cpu", 100, 50, 80, 10)])

    async def unload(self, model: str, **only: Any) -> list[LoadedModel]:
        self.calls.append({"model": model, **only})
        return self.unloaded

    async def unload_all(self, *, mode: Any = "drain") -> list[LoadedModel]:
        self.calls.append({"mode": mode})
        return self.unloaded


@dataclass
class FakeWorker:
    """An HTTP server in the place of a worker: sends `status`, then what is put into `chunks`.

    A chunk is bytes; None ends the answer; an exception class breaks the connection off.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: asyncio.Queue[bytes | type[Exception] | None] = field(default_factory=asyncio.Queue)
    requests: list[tornado.httputil.HTTPServerRequest] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    arrivals: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def say(self, *chunks: bytes | type[Exception] | None) -> None:
        for chunk in chunks:
            self.chunks.put_nowait(chunk)

    def start(self) -> tornado.httpserver.HTTPServer:
        app = tornado.web.Application([("/v1/chat/completions", _WorkerHandler, {"worker": self})])
        server = tornado.httpserver.HTTPServer(app)
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        return server


class _WorkerHandler(tornado.web.RequestHandler):
    def initialize(self, worker: FakeWorker) -> None:
        self.worker = worker

    def on_connection_close(self) -> None:
        self.worker.left.set()

    async def post(self) -> None:
        self.worker.requests.append(self.request)
        self.worker.asked.set()
        self.worker.arrivals.release()
        self.set_status(self.worker.status)
        for name, value in self.worker.headers.items():
            self.set_header(name, value)
        while (chunk := await self.worker.chunks.get()) is not None:
            if not isinstance(chunk, bytes):
                self.request.connection.stream.close()  # type: ignore[attr-defined]
                return
            self.write(chunk)
            await self.flush()
