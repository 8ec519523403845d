"""A fake server with the routes that widgets use, too: events, memory, scores, downloads, the Hub."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.fake_server import RESIDENT, SECONDS, FakeServer, Handler

GB = 1_000_000_000
CPU = {
    "device": "cpu",
    "total_bytes": 16 * GB,
    "free_bytes": 9 * GB,
    "budget_bytes": 10 * GB,
    "used_bytes": 538_000_000,
}


@dataclass
class FakeWorkbench(FakeServer):
    """`publish` tells all who listen; `listening` is set while somebody does."""

    memory: list[dict[str, Any]] = field(default_factory=lambda: [dict(CPU)])
    listening: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.listeners: list[asyncio.Queue[bytes | None]] = []

    def routes(self) -> list[tuple[str, type[Handler]]]:
        return [*super().routes(), ("/v1/events", Events), ("/v1/models/stats", Stats)]

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell an event to all who listen; somebody must."""
        assert self.listening.wait(SECONDS)
        told = f"id: 1\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()
        self._to_all(told)

    def publish_model(self, change: str, progress: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Tell what has happened to the resident model, whose fields are `fields` now."""
        model = {**RESIDENT, **fields}
        self.publish("model", {"change": change, "model": model, "reason": None, "progress": progress})

    def hang_up(self) -> None:
        """End all streams of events, as a server does that stops."""
        assert self.listening.wait(SECONDS)
        self.listening.clear()
        self._to_all(None)

    def _to_all(self, told: bytes | None) -> None:
        def put() -> None:
            for listener in self.listeners:
                listener.put_nowait(told)

        self._loop.call_soon_threadsafe(put)


class Workbench(Handler):
    fake: FakeWorkbench


class Events(Workbench):
    async def get(self) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.fake.listeners.append(queue)
        self.queue = queue
        self.set_header("Content-Type", "text/event-stream")
        await self.send(":\n\n")
        self.fake.listening.set()
        while (told := await queue.get()) is not None:
            await self.send(told.decode())
        self.fake.listeners.remove(queue)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.queue.put_nowait(None)


class Stats(Workbench):
    def get(self) -> None:
        self.finish({"memory": self.fake.memory})
