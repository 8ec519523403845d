"""A samovar server without models: speaks the /v1 routes, answers by a script, notes what it was asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets

TOKEN = "fake-token"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SECONDS = 20.0  # that a test waits for what must happen at once
RESIDENT = {
    "cache_key": "k",
    "model": MODEL,
    "model_path": "SmolLM2-135M-Instruct",
    "backend": "transformers",
    "device": "cpu",
    "dtype": "float32",
    "quantization": "none",
    "state": "ready",
    "memory_bytes": 538_000_000,
    "in_flight": 1,
    "queued": 0,
    "pinned": False,
    "loaded_at": 1.0,
    "last_used": 2.0,
    "expires_at": 302.0,
    "ttl": 300.0,
    "ttl_remaining": 300.0,
    "context_length": 2048,
    "load_seconds": {"import": 0.1, "weights": 1.2},
    "revision": "main-commit",
    "error": None,
}


def error_body(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


@dataclass(frozen=True)
class Reply:
    """One answer of a streaming route.

    `comments` come before the piece number `comments_at`. After `hang_after` pieces it waits until the
    client leaves; after `drop_after` the connection is cut; after `fail_after` comes `error`, which without
    that is the answer itself with `status`.
    """

    pieces: Sequence[str] = ("Hello", " world", "!")
    comments: Sequence[str] = ()
    comments_at: int = 0
    finish_reason: str = "stop"
    prompt_tokens: int = 7
    error: Mapping[str, Any] | None = None
    status: int = 400
    hang_after: int | None = None
    drop_after: int | None = None
    fail_after: int | None = None


@dataclass(frozen=True)
class Load:
    """One answer of the load route: `progress` events, then `hang`, or `error`, or the loaded model.

    `pause` is for how many seconds it is silent after the progress.
    """

    progress: Sequence[Mapping[str, Any]] = ()
    pause: float = 0.0
    error: Mapping[str, Any] | None = None
    hang: bool = False


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    body: dict[str, Any]


@dataclass
class FakeServer:
    """Use it with `with`. `enqueue` says how the next requests are answered; then come plain ones."""

    models: list[str] = field(default_factory=lambda: [MODEL])
    resident: list[dict[str, Any]] = field(default_factory=lambda: [dict(RESIDENT)])
    asked: list[Asked] = field(default_factory=list)
    replies: deque[Reply] = field(default_factory=deque)
    replies_of: dict[str, deque[Reply]] = field(default_factory=dict)
    loads: deque[Load] = field(default_factory=deque)
    hanging: threading.Event = field(default_factory=threading.Event)
    disconnected: threading.Event = field(default_factory=threading.Event)
    versions: dict[str, str] = field(default_factory=lambda: {"python": "3.11.9", "torch": "2.13.0"})
    echo: bool = False  # what is not scripted is answered by the question
    url: str = ""
    port: int = 0
    token: str = TOKEN

    def enqueue(self, *replies: Reply | Load) -> None:
        for reply in replies:
            if isinstance(reply, Load):
                self.loads.append(reply)
            else:
                self.replies.append(reply)

    def enqueue_for(self, model: str, *replies: Reply) -> None:
        """For requests to `model` only, as those of several models come in any order."""
        self.replies_of.setdefault(model, deque()).extend(replies)

    def next_reply(self, model: str | None) -> Reply:
        own = self.replies_of.get(model or "")
        scripted = own if own else self.replies
        return scripted.popleft() if scripted else Reply()

    def asked_at(self, path: str) -> list[dict[str, Any]]:
        return [asked.body for asked in self.asked if asked.path == path]

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SECONDS)

    def routes(self) -> list[tuple[str, type[Handler]]]:
        return [
            ("/v1", Routes),
            ("/v1/health", Health),
            ("/v1/models", Models),
            ("/v1/models/loaded", Loaded),
            ("/v1/models/load", LoadRoute),
            ("/v1/models/unload", Unload),
            ("/v1/models/unload-all", Unload),
            ("/v1/chat/completions", Chat),
        ]

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application([(path, handler, {"fake": self}) for path, handler in self.routes()])
        server = HTTPServer(application)
        sockets = bind_sockets(self.port, "127.0.0.1", reuse_port=True)
        server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/v1"
        started.set()
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()


class Handler(web.RequestHandler):
    def initialize(self, fake: FakeServer) -> None:
        self.fake = fake
        self.gone = asyncio.Event()

    def prepare(self) -> None:
        body = json.loads(self.request.body) if self.request.body else {}
        self.fake.asked.append(Asked(str(self.request.method), self.request.path, body))
        self.body = body
        if self.request.headers.get("Authorization") != f"Bearer {self.fake.token}":
            self.refuse(401, error_body("invalid_api_key", "Missing or unknown credentials."))

    def refuse(self, status: int, body: Mapping[str, Any]) -> None:
        self.set_status(status)
        self.finish(dict(body))

    def on_connection_close(self) -> None:
        self.gone.set()
        self.fake.disconnected.set()

    async def event(self, told: Mapping[str, Any] | str) -> None:
        self.set_header("Content-Type", "text/event-stream")
        await self.send(f"data: {told if isinstance(told, str) else json.dumps(told)}\n\n")

    async def comment(self, text: str) -> None:
        await self.send(f": {text}\n\n")

    async def send(self, text: str) -> None:
        self.write(text)
        try:
            await self.flush()
        except StreamClosedError:
            self.fake.disconnected.set()
            raise web.Finish from None

    async def hang(self) -> None:
        self.fake.hanging.set()
        await self.gone.wait()


class Health(Handler):
    def prepare(self) -> None:
        """Open to everybody."""

    def get(self) -> None:
        self.finish({"status": "ok"})


class Routes(Handler):
    def get(self) -> None:
        self.finish({"object": "list", "data": [], "versions": self.fake.versions})


class Models(Handler):
    def get(self) -> None:
        data = [{"id": name, "object": "model", "created": 1, "owned_by": "x"} for name in self.fake.models]
        self.finish({"object": "list", "data": data})


class Loaded(Handler):
    def get(self) -> None:
        self.finish({"loaded_models": self.fake.resident, "total_count": len(self.fake.resident)})


class LoadRoute(Handler):
    async def post(self) -> None:
        script = self.fake.loads.popleft() if self.fake.loads else Load()
        for step in script.progress:
            await self.event(step)
        await asyncio.sleep(script.pause)
        if script.hang:
            await self.hang()
        elif script.error is not None and not script.progress:
            self.refuse(404, script.error)
        elif script.error is not None:
            await self.event(script.error)
        else:
            await self.event(RESIDENT)
            await self.event("[DONE]")


class Unload(Handler):
    def post(self) -> None:
        unloaded, self.fake.resident = self.fake.resident, []
        self.finish({"unloaded_models": unloaded, "total_count": len(unloaded)})


class Chat(Handler):
    async def post(self) -> None:
        reply = self.fake.next_reply(self.body.get("model"))
        if self.fake.echo:
            reply = replace(reply, pieces=[self.body["messages"][-1]["content"]])
        if reply.error is not None and reply.fail_after is None:
            self.refuse(reply.status, reply.error)
        elif self.body.get("stream"):
            await self._stream(reply)
        else:
            self.finish(self._whole(reply))

    async def _stream(self, reply: Reply) -> None:
        for count, piece in enumerate([*reply.pieces, None]):
            for comment in reply.comments if count == reply.comments_at else ():
                await self.comment(comment)
            if count == reply.hang_after:
                await self.hang()
                return
            if count == reply.drop_after:
                self.request.connection.stream.close()  # type: ignore[union-attr]
                return
            if count == reply.fail_after and reply.error is not None:
                await self.event(reply.error)
                return
            for index in range(self._samples()) if piece is not None else ():
                delta = {"index": index, "delta": {"content": piece}, "finish_reason": None}
                await self.event(self._chunk([delta | self._logprobs(str(piece))]))
        for index in range(self._samples()):
            last = {"index": index, "delta": {}, "finish_reason": reply.finish_reason}
            await self.event(self._chunk([last]))
        if (self.body.get("stream_options") or {}).get("include_usage"):
            await self.event(self._chunk([]) | {"usage": self._usage(reply)})
        await self.event("[DONE]")

    def _samples(self) -> int:
        return int(self.body.get("n", 1))

    def _logprobs(self, piece: str) -> dict[str, Any]:
        """Every token has probability one half, and the same alternatives."""
        if not self.body.get("logprobs"):
            return {}
        ranked = [piece, "other", "third"][: self.body.get("top_logprobs", 0)]
        tops = [{"token": text, "logprob": -0.7 * rank, "bytes": []} for rank, text in enumerate(ranked, 1)]
        content = {"token": piece, "logprob": -0.7, "bytes": [], "top_logprobs": tops}
        return {"logprobs": {"content": [content], "refusal": None}}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": "c1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": MODEL,
            "choices": choices,
        }

    def _whole(self, reply: Reply) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(reply.pieces)}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        return self._chunk([choice]) | {"object": "chat.completion", "usage": self._usage(reply)}

    def _usage(self, reply: Reply) -> dict[str, int]:
        total = reply.prompt_tokens + len(reply.pieces)
        return {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": len(reply.pieces),
            "total_tokens": total,
        }
