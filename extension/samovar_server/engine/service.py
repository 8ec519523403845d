"""What a generating worker's handlers work with, and its status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from samovar_server.engine.adapters import Adapter, Adapters
from samovar_server.engine.core import Engine
from samovar_server.engine.generation import check_token_ids
from samovar_server.engine.grammar import Grammars
from samovar_server.engine.handlers import WorkerHandler
from samovar_server.engine.vocabulary import Vocabulary
from samovar_server.errors import InvalidRequest
from samovar_server.protocol.adapters import AdapterFolder
from samovar_server.protocol.fields import GenerationRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers share.

    The tokenizer is used on one thread of its own: encoding a long prompt takes a while, and tokenizers
    are not safe to use from several threads at once. `decoder` is a copy of it for everybody else.
    `inexact_because` is None where a request's bits do not depend on its neighbours. `adapters` is None where
    the model cannot have any.
    """

    engine: Engine
    tokenizer: Any
    decoder: Any
    vocabulary: Vocabulary
    model_name: str
    context_length: int
    stop_tokens: frozenset[int]
    secret: str
    memory_bytes: Callable[[], int]
    inexact_because: str | None
    grammars: Grammars
    adapters: Adapters | None
    tokenizing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
    )
    compiling: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="grammar")
    )

    def check(self, request: GenerationRequest, adapter: Adapter | None) -> None:
        """Refuse what this model, with this adapter, cannot do; InvalidRequest names the field."""
        check_token_ids(request, self.vocabulary.size)
        reason = self.inexact_because
        if reason is None and adapter is not None:
            reason = adapter.inexact_because
        if request.exact and reason is not None:
            raise InvalidRequest(
                f"exact: it cannot be promised, because {reason}. Leave exact out.",
                param="exact",
            )

    async def adapter(self, folder: AdapterFolder | None) -> Adapter | None:
        """The adapter in `folder`, loaded between two steps if need be. InvalidRequest when it cannot be."""
        if folder is None:
            return None
        if self.adapters is None:
            raise InvalidRequest(
                f"{self.model_name} runs by transformers' own means, with which adapters are not supported. "
                f"Leave out +{folder.name}.",
                param="model",
            )
        return await asyncio.wrap_future(self.engine.call(partial(self.adapters.get, folder)))

    async def with_tokenizer(self, function: Callable[[Any], T]) -> T:
        """`function` of the tokenizer, on the tokenizer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.tokenizing, function, self.tokenizer)

    async def with_grammars(self, function: Callable[[Grammars], T]) -> T:
        """`function` of the grammars, on a thread of their own: a slow one holds up no stream."""
        return await asyncio.get_running_loop().run_in_executor(self.compiling, function, self.grammars)


class StatusHandler(WorkerHandler):
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
                "draft_tokens": stats.draft_tokens,
                "accepted_tokens": stats.accepted_tokens,
                "steps": stats.steps,
                "busy_seconds": stats.busy_seconds,
            }
        )
