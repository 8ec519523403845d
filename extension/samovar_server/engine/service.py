"""The worker's private HTTP service: the OpenAI shape over the engine, for the gateway alone."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tornado import web
from tornado.iostream import StreamClosedError

from samovar_server.engine.core import Engine
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.engine.text import TextStream, render_chat
from samovar_server.errors import ContextLengthExceeded, InvalidApiKey, RouteNotFound, SamovarError
from samovar_server.protocol.chat import ChatRequest, parse_chat_request
from samovar_server.protocol.generation import ChatAnswer, FinishReason, Usage
from samovar_server.protocol.sampling import SamplingParams

MAX_BODY_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers share."""

    engine: Engine
    tokenizer: Any
    model_name: str
    context_length: int
    secret: str
    memory_bytes: Callable[[], int]

    def application(self) -> web.Application:
        """The Tornado application of the worker."""
        shared = {"service": self}
        return web.Application(
            [
                (r"/v1/chat/completions", ChatHandler, shared),
                (r"/status", StatusHandler, shared),
            ],
            default_handler_class=UnknownHandler,
            default_handler_args=shared,
            log_function=lambda handler: None,  # the gateway logs requests, with their callers
        )


class BaseHandler(web.RequestHandler):
    """Checks the secret and answers errors in OpenAI's shape."""

    def initialize(self, service: Service) -> None:
        """Tornado's constructor."""
        self.service = service

    def prepare(self) -> None:
        """Refuse whoever does not know the secret."""
        given = self.request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.service.secret}".encode()):
            raise InvalidApiKey("This is a samovar worker's private port. Use the Jupyter server's /v1.")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """The error as JSON; what is no SamovarError is a fault of ours and is logged by Tornado."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if not isinstance(error, SamovarError):
            error = SamovarError("The model's worker failed on this request. See the server's log.")
        self.set_status(error.status)
        if error.retry_after is not None:
            self.set_header("Retry-After", str(error.retry_after))
        self.finish(error.body())

    def log_exception(self, *exc_info: Any) -> None:
        """Answers are not incidents."""
        if not isinstance(exc_info[1], SamovarError):
            super().log_exception(*exc_info)


class UnknownHandler(BaseHandler):
    """Any other path."""

    def prepare(self) -> None:
        """404, for those who know the secret."""
        super().prepare()
        raise RouteNotFound("A worker has no such route.")


class StatusHandler(BaseHandler):
    """`GET /status`: what runs and what has run."""

    def get(self) -> None:
        """Counters as JSON."""
        engine = self.service.engine
        stats = engine.stats
        self.finish(
            {
                "running": engine.running,
                "waiting": engine.waiting,
                "memory_bytes": self.service.memory_bytes(),
                "prompt_tokens": stats.prompt_tokens,
                "cached_tokens": stats.cached_tokens,
                "generated_tokens": stats.generated_tokens,
                "steps": stats.steps,
                "busy_seconds": stats.busy_seconds,
            }
        )


class ChatHandler(BaseHandler):
    """`POST /v1/chat/completions`."""

    sequence: Sequence | None = None
    gone = False

    async def post(self) -> None:
        """Generate; a client that goes away frees its slot within one step."""
        request = parse_chat_request(self.request.body)
        outputs: asyncio.Queue[Output] = asyncio.Queue()
        self.sequence = self._sequence(request, outputs)
        self.service.engine.submit(self.sequence)
        if self.gone:  # while the prompt was tokenised
            self.service.engine.abort(self.sequence)
            return
        answer = ChatAnswer(request.model or self.service.model_name)
        if not request.stream:
            await self._whole(answer, outputs)
            return
        try:
            await self._stream(answer, outputs, usage=_wants_usage(request))
        except StreamClosedError:
            return  # on_connection_close has ended the sequence

    def on_connection_close(self) -> None:
        """The client has gone, in the queue, in prefill or in decode."""
        self.gone = True
        if self.sequence is not None:
            self.service.engine.abort(self.sequence)

    def _sequence(self, request: ChatRequest, outputs: asyncio.Queue[Output]) -> Sequence:
        service = self.service
        prompt = render_chat(service.tokenizer, [message.for_template() for message in request.messages])
        room = service.context_length - len(prompt)
        asked = request.output_limit()
        if room < (asked or 1):
            raise ContextLengthExceeded(
                f"The prompt has {len(prompt)} tokens and max_tokens is {asked or 'at least 1'}, but the "
                f"context window holds {service.context_length} tokens. Shorten the prompt "
                "or lower max_tokens.",
                param="messages",
            )
        seed = request.seed if request.seed is not None else int.from_bytes(os.urandom(8), "little")
        return Sequence(
            prompt=prompt,
            sampling=SamplingParams(request.temperature, request.top_p, seed),
            max_tokens=asked or room,
            text=TextStream(service.tokenizer, request.stop),
            emit=outputs.put_nowait,
        )

    async def _whole(self, answer: ChatAnswer, outputs: asyncio.Queue[Output]) -> None:
        pieces: list[str] = []
        while True:
            output = await outputs.get()
            pieces.append(output.text)
            if output.finish_reason is not None:
                break
        await self.finish(answer.whole("".join(pieces), output.finish_reason, self._usage(output)))

    async def _stream(self, answer: ChatAnswer, outputs: asyncio.Queue[Output], *, usage: bool) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self._event(answer.first_chunk())
        reason: FinishReason | None = None
        while reason is None:
            output = await outputs.get()
            if output.text:
                self._event(answer.text_chunk(output.text))
                await self.flush()
            reason = output.finish_reason
        self._event(answer.last_chunk(reason))
        if usage:
            self._event(answer.usage_chunk(self._usage(output)))
        self.write("data: [DONE]\n\n")
        await self.finish()

    def _event(self, data: dict[str, Any]) -> None:
        self.write(f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n")

    def _usage(self, output: Output) -> Usage:
        assert self.sequence is not None
        return Usage(len(self.sequence.prompt), output.completion_tokens, self.sequence.cached_tokens)


def _wants_usage(request: ChatRequest) -> bool:
    return request.stream_options is not None and request.stream_options.include_usage
