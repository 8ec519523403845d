"""What is asked of a model: the fields of /v1's chat completion, and how the model is to be loaded for it."""

from __future__ import annotations

import secrets
from argparse import Namespace
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from samovar.defaults import model_in_use
from samovar.errors import BadOption
from samovar.options import near_hint
from samovar.records import LoadOptions

Message = dict[str, Any]
"""One turn of a conversation, as OpenAI's API has it: `role`, `content`, and what tools need."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "backend": ("auto", "transformers", "llamacpp", "vllm", "remote"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "quantization": ("auto", "none", "int8", "int4", "nf4"),
}
"""The values of the fields that have a few only."""

SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, in the terms of OpenAI's API. None leaves a choice to the server.

    `logprobs` is how many alternatives (0 to 20) to tell for each token, beside its log-probability.
    `schema` is the JSON schema that the answer is held to. `ttl` is for how many seconds the model then
    stays unused in memory; 0 for ever. `load` is how the model is to be held in memory.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    seed: int | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool | None = None
    exact: bool | None = None
    logprobs: int | None = None
    schema: Mapping[str, Any] | None = None
    ttl: float | None = None
    load: LoadOptions = field(default_factory=LoadOptions)

    def parameters(self) -> dict[str, Any]:
        """All that is asked for, as `samovar.chat` takes it; plain values, so that they can be stored."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "load"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
        return {name: value for name, value in (plain | asdict(self.load)).items() if value not in (None, [])}

    def body(self) -> dict[str, Any]:
        """The body of the chat completion."""
        body = self.parameters()
        if (alternatives := body.pop("logprobs", None)) is not None:
            body |= {"logprobs": True, "top_logprobs": alternatives}
        if (schema := body.pop("schema", None)) is not None:
            named = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body


LOAD_PARAMETERS = frozenset(each.name for each in fields(LoadOptions))
PARAMETERS = (frozenset(each.name for each in fields(Request)) | LOAD_PARAMETERS) - {"load", "messages"}
"""What a request may ask beside its messages."""


def make_request(messages: Iterable[Message], parameters: Mapping[str, Any]) -> Request:
    """The request for `parameters`; BadOption names the nearest right name or value for a wrong one.

    `stop` may be one text and `schema` a pydantic class. Without a model it is the one of `%samovar use`.
    """
    _check(parameters, PARAMETERS)
    wishes = {name: value for name, value in parameters.items() if value is not None}
    wishes.setdefault("model", model_in_use())
    load = load_options({name: wishes.pop(name) for name in LOAD_PARAMETERS & wishes.keys()})
    if "schema" in wishes:
        wishes["schema"] = as_schema(wishes["schema"])
    if isinstance(wishes.get("stop"), str):
        wishes["stop"] = [wishes["stop"]]
    for name in ("stop", "stop_token_ids"):
        wishes[name] = tuple(wishes.get(name, ()))
    if "logit_bias" in wishes:
        wishes["logit_bias"] = {str(token): bias for token, bias in wishes["logit_bias"].items()}
    return Request(messages=tuple(messages), load=load, **wishes)


def as_load_options(options: Namespace) -> LoadOptions:
    """How the options of `%samovar load` want a model to be loaded."""
    return load_options({name: value for name, value in vars(options).items() if name in LOAD_PARAMETERS})


def as_request(options: Namespace, messages: tuple[Message, ...]) -> Request:
    """The request that the options of `%%generate` and `samovar run` describe."""
    return make_request(
        messages, {name: value for name, value in vars(options).items() if name in PARAMETERS}
    )


def as_messages(prompt: str, system: str | None = None) -> tuple[Message, ...]:
    """A conversation of one question."""
    question = {"role": "user", "content": prompt}
    return ({"role": "system", "content": system}, question) if system else (question,)


def as_schema(schema: object) -> Mapping[str, Any]:
    """The JSON schema that `schema` is, or that a pydantic class has, without properties beside its own.

    pydantic leaves those open, where a class does not forbid them, and a small model then goes on for ever.
    """
    if isinstance(schema, Mapping):
        return schema
    describe = getattr(schema, "model_json_schema", None)
    if describe is None or not isinstance(schema, type):
        raise BadOption(
            f"schema: a JSON schema is a dict or a pydantic class, and this is a {type(schema).__name__}."
        )
    closed: Mapping[str, Any] = _closed(describe())
    return closed


def _closed(schema: Any) -> Any:
    """`schema`, in which objects that do not say so have no further properties."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def load_options(parameters: Mapping[str, Any]) -> LoadOptions:
    """How a model is to be loaded; BadOption names the nearest right name or value for a wrong one."""
    _check(parameters, LOAD_PARAMETERS)
    return LoadOptions(**parameters)


def _check(parameters: Mapping[str, Any], known: Collection[str]) -> None:
    for name, value in parameters.items():
        if name not in known:
            raise BadOption(f"There is no parameter {name}.{near_hint(name, known)}")
        if name in CHOICES and value is not None and value not in CHOICES[name]:
            values = ", ".join(CHOICES[name])
            raise BadOption(f"{name}: {value!r} is none of {values}.{near_hint(str(value), CHOICES[name])}")


def drawn_seed() -> int:
    """A seed for a request that names none; drawn here, so that it is known and the run can be repeated."""
    return secrets.randbelow(SEEDS)
