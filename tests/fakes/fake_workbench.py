"""A fake server with the routes that widgets use, too: events, memory, scores, downloads, the Hub."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.fake_server import MODEL, RESIDENT, SECONDS, FakeServer, Handler, error_body

GB = 1_000_000_000
CPU = {
    "device": "cpu",
    "total_bytes": 16 * GB,
    "free_bytes": 9 * GB,
    "budget_bytes": 10 * GB,
    "used_bytes": 538_000_000,
}


STORED = {
    "model_name": MODEL,
    "model_path": "SmolLM2-135M-Instruct",
    "total_size_bytes": 269_000_000,
    "model_type": "transformers",
}
FOUND = {"id": "org/other", "size_bytes": 40 * GB, "fits": False, "gated": True, "model_type": "gguf"}
JOB = {
    "job_id": "j1",
    "status": "downloading",
    "url": "org/other",
    "created_at": 1.0,
    "bytes_total": 1000 * 10**6,
    "bytes_done": 250 * 10**6,
    "bytes_per_second": 5e6,
    "eta_seconds": 150.0,
    "files_total": 3,
    "files_downloaded": 1,
}
CHECK = {
    "status": "ok",
    "repo_id": "org/other",
    "matched_files": 3,
    "total_bytes": GB,
    "free_disk_bytes": 50 * GB,
}
LOGPROBS = {
    "tokens": ["The", " <sky>", " is", " green"],
    "token_logprobs": [None, math.log(0.25), math.log(0.5), math.log(0.002)],
    "top_logprobs": [None, {" <sky>": math.log(0.25)}, {" is": math.log(0.5)}, {" blue": math.log(0.9)}],
    "text_offset": [0, 3, 9, 12],
}
ESTIMATE = {
    "total_bytes": 600_000_000,
    "device": "cpu",
    "free_bytes": 9 * GB,
    "fits": True,
    "would_evict": [],
}
DIAGNOSIS: dict[str, Any] = {
    "folders": [{"path": "/models", "exists": True, "writable": True, "free_bytes": 50 * GB}],
    "engine_problem": None,
    "spare": "ready",
    "default_model": "demo",
    "default_model_here": True,
}


@dataclass
class FakeWorkbench(FakeServer):
    """`publish` tells all who listen; `listening` is set while somebody does."""

    memory: list[dict[str, Any]] = field(default_factory=lambda: [dict(CPU)])
    listening: threading.Event = field(default_factory=threading.Event)
    stored: list[dict[str, Any]] = field(default_factory=lambda: [dict(STORED)])
    found: list[dict[str, Any]] = field(default_factory=lambda: [dict(FOUND)])
    jobs: list[dict[str, Any]] = field(default_factory=list)
    steps: deque[dict[str, Any]] = field(default_factory=deque)  # of the one job, each time it is asked for
    leftovers: list[dict[str, Any]] = field(default_factory=list)
    check: dict[str, Any] = field(default_factory=lambda: dict(CHECK))
    estimate: dict[str, Any] = field(default_factory=lambda: dict(ESTIMATE))
    diagnosis: dict[str, Any] = field(default_factory=lambda: dict(DIAGNOSIS))
    missing: set[str] = field(default_factory=set)  # models that an estimate does not find
    refusal: dict[str, Any] | None = None  # what the routes for downloads and the Hub answer instead

    def __post_init__(self) -> None:
        self.listeners: list[asyncio.Queue[bytes | None]] = []

    def routes(self) -> list[tuple[str, type[Handler]]]:
        return [
            *super().routes(),
            ("/v1/events", Events),
            ("/v1/completions", Completions),
            ("/v1/diagnosis", Diagnose),
            ("/v1/models/stats", Stats),
            ("/v1/models/estimate", Estimate),
            ("/v1/models/inventory", Inventory),
            ("/v1/models/clean", Clean),
            ("/v1/models/search", Search),
            ("/v1/models/verify-repo", Verify),
            ("/v1/models/download", DownloadList),
            (r"/v1/models/download/([^/]+)", OneDownload),
            (r"/v1/models/download/([^/]+)/resume", Resume),
        ]

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


class Diagnose(Workbench):
    def get(self) -> None:
        self.finish(self.fake.diagnosis)


class Stats(Workbench):
    def get(self) -> None:
        self.finish({"memory": self.fake.memory})


class Completions(Workbench):
    def post(self) -> None:
        assert (self.body["echo"], self.body["max_tokens"]) == (True, 0)
        self.finish({"choices": [{"index": 0, "text": self.body["prompt"], "logprobs": LOGPROBS}]})


class Estimate(Workbench):
    def post(self) -> None:
        if self.body["model"] in self.fake.missing:
            self.refuse(404, error_body("model_not_found", "No such model.", "model"))
        else:
            self.finish(self.fake.estimate)


class Inventory(Workbench):
    def get(self) -> None:
        self.finish({"models": self.fake.stored})


class Clean(Workbench):
    def post(self) -> None:
        freed = sum(left["size_bytes"] for left in self.fake.leftovers)
        self.finish(
            {
                "removed": self.fake.leftovers,
                "in_use": [{"kind": "orphan", "path": "x"}],
                "freed_bytes": freed,
            }
        )
        if not self.body["dry_run"]:
            self.fake.leftovers = []


class Hub(Workbench):
    def answer(self, answer: Mapping[str, Any]) -> None:
        if self.fake.refusal is not None:
            self.refuse(502, self.fake.refusal)
        else:
            self.finish(dict(answer))


class Search(Hub):
    def get(self) -> None:
        self.answer({"models": self.fake.found})


class Verify(Hub):
    def post(self) -> None:
        self.answer(self.fake.check)


class DownloadList(Hub):
    def get(self) -> None:
        self.finish({"downloads": self.fake.jobs})

    def post(self) -> None:
        self.answer(JOB | {"url": self.body["url"], "status": "pending", "bytes_total": 0, "bytes_done": 0})


class OneDownload(Hub):
    def get(self, job_id: str) -> None:
        self.answer(JOB | {"job_id": job_id} | self.fake.steps[0])
        if len(self.fake.steps) > 1:
            self.fake.steps.popleft()

    def delete(self, job_id: str) -> None:
        self.answer(JOB | {"job_id": job_id, "status": "cancelled"})


class Resume(Hub):
    def post(self, job_id: str) -> None:
        self.answer(JOB | {"job_id": job_id})
