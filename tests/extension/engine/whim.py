"""A worker's HTTP over a model that says anything: each token by a hash of those before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import torch
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from samovar_server.engine.compute import ComputeThread
from samovar_server.engine.core import Delivery, Engine
from samovar_server.engine.grammar import Grammars
from samovar_server.engine.routes import application
from samovar_server.engine.service import Service
from samovar_server.engine.vocabulary import Vocabulary
from tests.extension.engine.helpers import RuleRunner
from tests.extension.engine.tokenizers import CHAT_TEMPLATE, byte_level

CONTEXT_LENGTH = 4096


class Whim(RuleRunner):
    """Any token of the tokenizer, by a hash of those before it."""

    def __init__(self, slots: int, vocabulary: int) -> None:
        super().__init__(slots)
        self._vocabulary = vocabulary

    def _logits(self, tokens: Any) -> torch.Tensor:
        return whim(tokens, self._vocabulary)


def whim(tokens: Sequence[int], vocabulary: int) -> torch.Tensor:
    """The logits behind `tokens`."""
    generator = torch.Generator().manual_seed(hash(tuple(tokens)) % 2**31)
    return torch.rand(vocabulary, generator=generator)


def ask(
    route: str,
    *bodies: dict[str, Any],
    template: str = CHAT_TEMPLATE,
    headers: Mapping[str, str] | None = None,
    inexact_because: str | None = None,
) -> list[httpx.Response]:
    """The worker's answers to `bodies`, asked all at once."""

    async def answers() -> list[httpx.Response]:
        tokenizer = byte_level(template)
        engine = _engine(len(tokenizer), asyncio.get_running_loop().call_soon_threadsafe)
        stop = frozenset({tokenizer.eos_token_id})
        service = Service(
            engine=engine,
            tokenizer=tokenizer,
            decoder=tokenizer,
            vocabulary=Vocabulary(tokenizer, len(tokenizer)),
            model_name="whim",
            context_length=CONTEXT_LENGTH,
            stop_tokens=stop,
            secret="secret",
            memory_bytes=lambda: 0,
            inexact_because=inexact_because,
            grammars=Grammars(tokenizer, len(tokenizer), stop),
            adapters=None,
        )
        (socket,) = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(application(service))
        server.add_sockets([socket])
        url = f"http://127.0.0.1:{socket.getsockname()[1]}/v1/{route}"
        secret = {"Authorization": "Bearer secret"}
        async with httpx.AsyncClient(
            headers=secret | dict(headers or {}), trust_env=False, timeout=20
        ) as http:
            given = await asyncio.gather(*(http.post(url, json=body) for body in bodies))
        server.stop()
        await server.close_all_connections()
        engine.stop()
        return given

    return asyncio.run(answers())


def _engine(vocabulary: int, call_soon: Callable[..., object]) -> Engine:
    def deliver(outputs: Delivery) -> None:
        for sequence, output in outputs:
            call_soon(sequence.emit, output)

    runner: Any = Whim(4, vocabulary)
    engine = Engine(
        runner, ComputeThread(), slots=4, max_queue=9, deliver=deliver, on_failure=lambda error: None
    )
    engine.start()
    return engine


def events(answer: httpx.Response) -> list[Any]:
    """The events of a stream, decoded, with the "[DONE]" at its end."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
