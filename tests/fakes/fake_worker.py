"""A worker process without torch: the same pipes and the same HTTP, scripted by the model's folder.

Start it in place of the real worker: `c.Workbench.worker_command = FAKE_WORKER`. A file `fake.json`
in the model's folder says how it behaves; `FakeScript` in models.py lists the fields.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tornado.httpserver
import tornado.iostream
import tornado.netutil
import tornado.web

from samovar_server.errors import InvalidApiKey, SamovarError
from samovar_server.loader.spec import (
    Failed,
    Imported,
    Progress,
    Ready,
    WorkerEvent,
    WorkerSpec,
    event_line,
    parse_spec,
)
from samovar_server.protocol.chat import ChatRequest, parse_chat_request
from samovar_server.protocol.place import PLACE_HEADER, Place


class Counters:
    """What GET /status tells; tests watch `aborted` to see that a lost client frees its slot."""

    def __init__(self) -> None:
        self.running = self.aborted = 0
        self.generated_tokens = self.prompt_tokens = self.cached_tokens = 0


class Base(tornado.web.RequestHandler):
    def initialize(self, spec: WorkerSpec, script: dict[str, Any], counters: Counters) -> None:
        self.spec, self.script, self.counters = spec, script, counters

    def prepare(self) -> None:
        if self.request.headers.get("Authorization") != f"Bearer {self.spec.secret}":
            self.fail(InvalidApiKey("wrong worker secret"))

    def fail(self, error: SamovarError) -> None:
        self.set_status(error.status)
        if error.retry_after is not None:
            self.set_header("Retry-After", str(error.retry_after))
        self.finish(error.body())


class StatusHandler(Base):
    def get(self) -> None:
        self.finish({**vars(self.counters), "waiting": 0, "memory_bytes": self.script["memory_bytes"]})


class ChatHandler(Base):
    def on_connection_close(self) -> None:
        self.gone.set()

    async def post(self) -> None:
        self.gone = asyncio.Event()
        try:
            request = parse_chat_request(self.request.body)
        except SamovarError as error:
            self.fail(error)
            return
        self.counters.running += 1
        try:
            await self.answer(request)
        except tornado.iostream.StreamClosedError:
            self.counters.aborted += 1
        finally:
            self.counters.running -= 1

    async def answer(self, request: ChatRequest) -> None:
        limit = request.output_limit()
        pieces = list(self.pieces(request))
        reason = "stop" if limit is None or len(pieces) <= limit else "length"
        pieces = pieces[:limit]
        usage = self.usage(request, len(pieces))
        if request.stream:
            self.set_header("Content-Type", "text/event-stream")
            await self.event(request, {"role": "assistant", "content": ""}, None)
        for number, piece in enumerate(pieces):
            await self.pause(number)
            self.counters.generated_tokens += 1
            if request.stream:
                await self.event(request, {"content": piece}, None)
        await self.pause(len(pieces))
        if not request.stream:
            message = {"role": "assistant", "content": "".join(pieces)}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
            await self.finish({**self.envelope("chat.completion"), "choices": [choice], "usage": usage})
            return
        await self.event(request, {}, reason)
        place = Place.of_header(self.request.headers.get(PLACE_HEADER))
        if request.include_usage or place.counted:
            await self.send({**self.envelope("chat.completion.chunk"), "choices": [], "usage": usage})
        self.write("data: [DONE]\n\n")
        await self.finish()

    def pieces(self, request: ChatRequest) -> Iterator[str]:
        """One string per token: the scripted reply, or the last message's words."""
        if self.script["reply"] is not None:
            yield from self.script["reply"]
            return
        for number, word in enumerate(request.messages[-1].text().split()):
            yield word if number == 0 else f" {word}"

    def usage(self, request: ChatRequest, generated: int) -> dict[str, Any]:
        prompt = sum(len(message.text().split()) for message in request.messages)
        self.counters.prompt_tokens += prompt
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    async def pause(self, number: int) -> None:
        """What the script does before token `number`: crash, hang until the client leaves, wait."""
        if self.script["crash_after_tokens"] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.script["stop_after_tokens"] == number:
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.script["hang_after_tokens"] == number:
            await self.gone.wait()
        if self.script["token_seconds"]:
            await asyncio.sleep(self.script["token_seconds"])
        if self.gone.is_set():
            raise tornado.iostream.StreamClosedError

    def envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": "chatcmpl-fake",
            "object": kind,
            "created": int(time.time()),
            "model": self.spec.model_name,
        }

    async def event(self, request: ChatRequest, delta: dict[str, str], reason: str | None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self.envelope("chat.completion.chunk"), "choices": [choice]}
        if request.stream_options is not None and request.stream_options.include_usage:
            chunk["usage"] = None
        await self.send(chunk)

    async def send(self, chunk: dict[str, Any]) -> None:
        self.write(f"data: {json.dumps(chunk)}\n\n")
        await self.flush()


def emit(event: WorkerEvent) -> None:
    sys.stdout.buffer.write(event_line(event))
    sys.stdout.buffer.flush()


def end_with_parent() -> None:
    """The server's end of the pipe closes when the server ends, however it ends."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def load(spec: WorkerSpec, script: dict[str, Any]) -> None:
    """Pretend to load; ends the process, or never returns, if the script says so."""
    for number in range(1, 5):
        time.sleep(script["load_seconds"] / 4)
        emit(Progress("weights", number / 5, bytes_done=number * 25, bytes_total=100))
    print(f"fake worker of {spec.model_name} has loaded", file=sys.stderr, flush=True)
    if script["fail"] is not None:
        emit(Failed("model_load_failed", script["fail"]))
        sys.exit(1)
    if script["crash_while_loading"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if script["hang_while_loading"]:
        threading.Event().wait()
    emit(Progress("warmup", 0.9))


async def serve(spec: WorkerSpec, script: dict[str, Any]) -> None:
    given = {"spec": spec, "script": script, "counters": Counters()}
    routes = [("/v1/chat/completions", ChatHandler, given), ("/status", StatusHandler, given)]
    server = tornado.httpserver.HTTPServer(tornado.web.Application(routes))
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    emit(
        Ready(
            port=sockets[0].getsockname()[1],
            device=spec.device,
            dtype=spec.dtype,
            context_length=spec.context_length or 2048,
            memory_bytes=script["memory_bytes"],
            load_seconds={"import": 0.0, "weights": script["load_seconds"], "warmup": 0.0},
            slots=spec.slots - spec.reserve,
            reserve=spec.reserve,
        )
    )
    await asyncio.Event().wait()


def main() -> None:
    emit(Imported(0.0))
    line = sys.stdin.buffer.readline()
    if not line:
        return
    end_with_parent()
    spec = parse_spec(line, WorkerSpec)
    script = json.loads((Path(spec.model_path) / "fake.json").read_text())
    load(spec, script)
    asyncio.run(serve(spec, script))


if __name__ == "__main__":
    main()
