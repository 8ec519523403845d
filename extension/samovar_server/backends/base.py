"""What a backend is: an engine, how its workers are started, and what it honours.

A worker is a process that takes its spec from a line on stdin, tells its progress and at last where it
answers and what memory it takes by lines on stdout (`loader/spec.py`), ends when stdin does, and speaks
OpenAI's HTTP to whoever knows its secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from samovar_server.errors import InvalidRequest
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.options import LoadOptions, ProgressCallback
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.spec import Spec

Routes = Mapping[str, frozenset[str] | None]
"""Routes that a worker answers, and the request fields it honours there; None: all that samovar knows."""

ALWAYS = frozenset({"model", "backend", "ttl", "stream", "stream_options", "user"})
"""Fields that no backend refuses: they are samovar's own, or change nothing about an answer's content."""


SAMPLING = frozenset({
    "frequency_penalty", "ignore_eos", "logit_bias", "max_tokens", "min_p", "min_tokens", "n",
    "presence_penalty", "repetition_penalty", "seed", "stop", "stop_token_ids", "temperature", "top_k",
    "top_p",
})  # fmt: skip
CHAT = SAMPLING | {
    "logprobs", "max_completion_tokens", "messages", "parallel_tool_calls", "response_format", "tool_choice",
    "tools", "top_logprobs",
}  # fmt: skip
COMPLETIONS = SAMPLING | {"best_of", "echo", "logprobs", "prompt", "prompt_logprobs"}
EMBEDDINGS = frozenset({"dimensions", "encoding_format", "input"})
"""What other servers of OpenAI's HTTP know: `exact` is a promise that only samovar's own engine gives."""


def reserve_within(rows: int, slots: int, reserve: int) -> int:
    """The share of a `reserve` beside `slots` where memory allows only so many `rows` in all."""
    return reserve * rows // (slots + reserve)


class Honours(Protocol):
    """What may be asked of a backend."""

    name: ClassVar[str]
    title: ClassVar[str]
    """What it is called in messages."""
    options: ClassVar[frozenset[str]]
    """The load options that it takes."""
    routes: ClassVar[Routes]


class Backend(Honours, Protocol):
    """One engine. Nothing here imports the engine's libraries: only its worker processes do."""

    has_spare: ClassVar[bool]
    """Whether a worker that waits for its model saves a load much time."""
    has_adapters: ClassVar[bool]
    """Whether it can add an adapter to a model for a request."""

    @property
    def command(self) -> Sequence[str]:
        """The command line of a worker process, which learns its model later, by its spec."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables to add to a worker's environment."""

    def check(self) -> None:
        """Raise BackendUnavailable, saying what to install, when workers could not run here."""

    def takes(self, model: ResolvedModel) -> bool:
        """Whether models in this format can be loaded."""

    def plan(self, model: ResolvedModel, options: LoadOptions, budgets: Mapping[str, int]) -> LoadPlan:
        """Make every `auto` definite and estimate the memory; `budgets` has the bytes of each device.

        Reads the model's files. Raises InvalidRequest for an option that this model, this machine or
        this backend cannot honour, LoadFailed for a damaged model.
        """

    async def prepare(self, plan: LoadPlan, report: ProgressCallback) -> None:
        """Do what has to be done on the disk before a worker can load. Raises LoadFailed."""

    def spec(self, plan: LoadPlan, secret: str) -> Spec:
        """What a worker is told to carry out `plan`."""


def refuse_options(backend: Honours, options: LoadOptions) -> None:
    """InvalidRequest for a load option that `backend` does not take."""
    for name in sorted(options.asked() - backend.options):
        has = ", ".join(sorted(backend.options)) or "none"
        raise InvalidRequest(
            f"{name}: backend {backend.name} ({backend.title}) does not take it. "
            f"Leave it out, or choose another backend; the load options here are: {has}.",
            param=name,
        )


def refuse_fields(backend: Honours, route: str, fields: frozenset[str]) -> None:
    """InvalidRequest for a route, or a field that asks for something, that `backend` does not honour."""
    if route not in backend.routes:
        has = ", ".join(backend.routes)
        raise InvalidRequest(
            f"backend {backend.name} ({backend.title}) does not serve {route}. "
            f"Choose backend transformers for it; this one serves: {has}.",
            param="model",
        )
    honoured = backend.routes[route]
    if honoured is None:
        return
    for name in sorted(fields - honoured - ALWAYS - LOAD_FIELDS):
        raise InvalidRequest(
            f"{name}: backend {backend.name} ({backend.title}) does not honour it. Leave it out, or load "
            f"the model with backend transformers. Here it honours: {', '.join(sorted(honoured))}.",
            param=name,
        )


def refuse_adapter(backend: Backend, model: str, adapter: str, route: str | None) -> None:
    """InvalidRequest for an adapter on what `backend` has loaded or would load, or at this route."""
    if not backend.has_adapters:
        raise InvalidRequest(
            f"{model}: backend {backend.name} ({backend.title}) takes no adapters. Leave out +{adapter}, "
            "or load the model with backend transformers.",
            param="model",
        )
    if route == "/v1/embeddings":
        raise InvalidRequest(
            f"{model}: embeddings are made without adapters. Leave out +{adapter}.", param="model"
        )


LOAD_FIELDS = frozenset(LoadOptions.__dataclass_fields__)
"""Checked when a load is planned."""
