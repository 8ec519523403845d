"""The fields that chat completions and completions share, and how a bad one is refused.

Field meanings: https://platform.openai.com/docs/api-reference/chat/create and, for those OpenAI
lacks (top_k, min_p, …), vLLM's server. Unknown fields are refused, never ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from samovar_server.errors import InvalidRequest
from samovar_server.loader.options import Backend, Dtype, LoadOptions, Quantization
from samovar_server.protocol.body import read_object
from samovar_server.protocol.sampling import SamplingParams

MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 1024
MAX_SAMPLES = 128
MAX_ID_DIGITS = 20
MAX_TEMPERATURE = 2.0
"""OpenAI's."""

UNION_TAG = "[]"
"""Ends the tags of union members, which pydantic puts into locations and which no client would know."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """`include_usage` asks for one last event that carries the token counts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class LoadFields(BaseModel):
    """Which model, and how it is to be held in memory: part of every request that may load one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    backend: Backend = "auto"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")] = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = "auto"
    context_length: Annotated[int, Field(ge=1)] | None = None
    n_ctx: Annotated[int, Field(ge=1)] | None = None
    n_gpu_layers: Annotated[int, Field(ge=-1)] | None = None
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    gpu_memory_utilization: Annotated[float, Field(ge=0.1, le=1.0)] | None = None
    tensor_parallel_size: Annotated[int, Field(ge=1)] | None = None
    pipeline_parallel_size: Annotated[int, Field(ge=1)] | None = None
    memory_bytes: Annotated[int, Field(ge=1)] | None = None
    ttl: Annotated[Finite, Field(ge=-1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, data: Any) -> Any:
        # As in OpenAI's API: a client that sends `"stop": null` asks for nothing.
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data

    @property
    def sequences(self) -> int:
        """How many sequences the model computes for it; 0: it does not wait for the model's slots."""
        return 0

    def load_options(self) -> LoadOptions:
        """The part of the request that says how the model is to be held in memory."""
        return LoadOptions(**{field.name: getattr(self, field.name) for field in fields(LoadOptions)})

    def asked(self) -> frozenset[str]:
        """The names of the fields that ask for something: those that are not at their defaults."""
        return frozenset(
            name
            for name in self.model_fields_set
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
        )

    @field_validator("ttl")
    @classmethod
    def _ttl_is_a_time(cls, value: float | None) -> float | None:
        if value is not None and -1 < value < 0:
            raise ValueError("seconds, 0 for never, or -1 for unloading the model after its use")
        return value

    @model_validator(mode="after")
    def _one_window(self) -> Self:
        named = [
            name for name in ("context_length", "n_ctx", "max_model_len") if getattr(self, name) is not None
        ]
        if len({getattr(self, name) for name in named}) > 1:
            raise refusal(named[1], f"it means the same as {named[0]}, which has another value")
        return self


class GenerationRequest(LoadFields):
    """What every generating route understands: sampling, stopping, streaming, load options.

    `top_k` 0 (or -1, as in vLLM) keeps all tokens. `logit_bias` maps token ids to what is added to their
    logits, -100 to 100. `exact` refuses where the bits of the answer could depend on other requests.
    `ignore_eos` holds off the end-of-text tokens, and `min_tokens` whatever would end the text.
    """

    stream: bool = False
    stream_options: StreamOptions | None = None

    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    temperature: Annotated[Finite, Field(ge=0, le=MAX_TEMPERATURE)] = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[Finite, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[Finite, Field(gt=0, le=10)] = 1.0
    logit_bias: Annotated[dict[str, Annotated[Finite, Field(ge=-100, le=100)]], Field(max_length=1024)] = {}

    max_tokens: Annotated[int, Field(ge=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    ignore_eos: bool = False
    stop: list[str] = []
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=128)] = []
    exact: bool = False
    user: str | None = None

    @field_validator("logit_bias")
    @classmethod
    def _tokens_as_keys(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            if not key.isascii() or not key.isdigit() or len(key) > MAX_ID_DIGITS:
                raise ValueError(f'the keys are token ids, such as "50256"; {key[:40]!r} is none')
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _stop_within_bounds(cls, value: list[str]) -> list[str]:
        if len(value) > MAX_STOP_STRINGS:
            raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings are supported")
        if any(not text for text in value):
            raise ValueError("a stop string must not be empty")
        if any(len(text) > MAX_STOP_CHARACTERS for text in value):
            raise ValueError(f"a stop string may have at most {MAX_STOP_CHARACTERS} characters")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options", "it goes with stream: true only")
        limit = self.output_limit()
        if limit is not None and self.min_tokens > limit:
            raise refusal("min_tokens", "it is larger than max_tokens")
        return self

    @property
    def sequences(self) -> int:
        """See LoadFields."""
        return self.n

    def output_limit(self) -> int | None:
        """Most tokens to generate; None means up to the end of the context window."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with an event of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, stop_tokens: frozenset[int], seed: int) -> SamplingParams:
        """The engine's view; `stop_tokens` are the model's own, `seed` the one to use."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            seed=seed,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in self.logit_bias.items()),
            min_tokens=self.min_tokens,
            stop_tokens=frozenset(self.stop_token_ids) | (frozenset() if self.ignore_eos else stop_tokens),
        )


def refusal(param: str, message: str) -> PydanticCustomError:
    """To be raised by a validator of the whole request when it is one field that is at fault."""
    return PydanticCustomError("refused", "{message}", {"param": param, "message": message})


RequestT = TypeVar("RequestT", bound=BaseModel)


def parse(model: type[RequestT], body: bytes) -> RequestT:
    """The request in `body` as a `model`, or InvalidRequest naming the field at fault."""
    return validate(model, read_object(body))


def validate(model: type[RequestT], raw: Mapping[str, Any]) -> RequestT:
    """Like `parse`, for a body that is already decoded."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _as_invalid_request(model, error) from None


def _as_invalid_request(model: type[BaseModel], error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    location = [part for part in map(str, first["loc"]) if not part.endswith(UNION_TAG)]
    context = first.get("ctx", {}) if first["type"] == "refused" else {}
    param = ".".join(location) or context.get("param")
    if first["type"] == "extra_forbidden" and len(location) == 1:
        known = ", ".join(sorted(model.model_fields))
        return InvalidRequest(
            f"{param!r} is not supported here. Remove it; the supported fields are: {known}.", param=param
        )
    message = first["msg"].removeprefix("Value error, ")
    shown = _shown(first.get("input"))
    return InvalidRequest(f"{param or 'request'}: {message}{shown}.", param=param)


def _shown(value: Any) -> str:
    """The offending value, when it is short enough to help the reader."""
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        text = json.dumps(value)
        if len(text) <= 40:
            return f" (got {text})"
    return ""
