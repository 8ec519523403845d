"""The keyword parameters of `samovar.generate` and its kin, for type checkers and for `?` in a notebook."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, get_type_hints

Function = TypeVar("Function", bound=Callable[..., Any])


class LoadParameters(TypedDict, total=False):
    """How a model is to be held in memory; what is left out is the server's choice."""

    backend: str | None
    device: str | None
    dtype: str | None
    quantization: str | None
    context_length: int | None
    memory_bytes: int | None
    n_ctx: int | None
    n_gpu_layers: int | None
    max_model_len: int | None
    gpu_memory_utilization: float | None


class Parameters(LoadParameters, total=False):
    """What a request may ask; what is left out is the server's choice."""

    model: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[str | int, float] | None
    seed: int | None
    n: int | None
    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    exact: bool | None
    logprobs: int | None
    schema: Mapping[str, Any] | type | None
    ttl: float | None


MEANING = """

    What is left out is the server's choice; a seed is drawn here, so that `.request` holds it.
    model: a name or an alias; without one, that of `%samovar use`, or else the server's default.
    temperature: 0 always takes the likeliest token. top_p, top_k, min_p: what is drawn from.
    presence_penalty, frequency_penalty, repetition_penalty, logit_bias (by token id): what is avoided.
    seed: the same one draws the same text. n: so many answers. exact: refuse what others could change.
    max_tokens, min_tokens, stop (up to four texts), stop_token_ids, ignore_eos: where the text ends.
    logprobs: note each token's log-probability, and that of so many (0 to 20) likeliest ones.
    schema: a dict with a JSON schema, or a pydantic class, that the answer is held to.
    backend, device, dtype, quantization, context_length, memory_bytes, n_ctx, n_gpu_layers,
    max_model_len, gpu_memory_utilization: how the model is loaded. ttl: seconds that it then stays in
    memory unused, 0 for ever.

    Raises BadOption for a wrong name or value, NoServer, ServerError when the server refuses, and
    ConnectionLost. Errors, and Interrupted, hold what had come as `partial`.
    """


def with_parameters(function: Function) -> Function:
    """Show the parameters of a request in the signature of `function` and in its docstring."""
    with_names(Parameters, function)
    function.__doc__ = (function.__doc__ or "").rstrip() + MEANING
    return function


def with_load_parameters(function: Function) -> Function:
    """Show those of a load in the signature of `function`."""
    return with_names(LoadParameters, function)


def with_names(parameters: type, function: Function) -> Function:
    """Editors and the notebook's completion read the signature; `**parameters` would tell them nothing."""
    own = inspect.signature(function)
    named = [item for item in own.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in get_type_hints(parameters).items()
        if name not in own.parameters
    ]
    function.__signature__ = own.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
    return function
