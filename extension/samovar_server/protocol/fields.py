"""The fields that chat completions and completions share, and how a bad one is refused.

Field meanings: https://platform.openai.com/docs/api-reference/chat/create and, for those OpenAI
lacks (top_k, min_p, …), vLLM's server. Unknown fields are refused, never ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from samovar_server.errors import InvalidRequest
from samovar_server.loader.options import Backend, Dtype, LoadOptions, Quantization

MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 1024

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
    quantization: Quantization = "none"
    context_length: Annotated[int, Field(ge=1)] | None = None
    ttl: Annotated[Finite, Field(ge=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, data: Any) -> Any:
        # As in OpenAI's API: a client that sends `"stop": null` asks for nothing.
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data

    def load_options(self) -> LoadOptions:
        """The part of the request that says how the model is to be held in memory."""
        return LoadOptions(
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
            context_length=self.context_length,
        )


class GenerationRequest(LoadFields):
    """What every generating route understands: sampling, stopping, streaming, load options."""

    stream: bool = False
    stream_options: StreamOptions | None = None

    temperature: Annotated[Finite, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: list[str] = []
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None

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


RequestT = TypeVar("RequestT", bound=BaseModel)


def parse(model: type[RequestT], body: bytes) -> RequestT:
    """The request in `body` as a `model`, or InvalidRequest naming the field at fault."""
    try:
        raw = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The request body is not valid JSON ({error}). Send a JSON object.") from None
    if not isinstance(raw, dict):
        raise InvalidRequest('The request body must be a JSON object, such as {"model": "demo"}.')
    return validate(model, raw)


def validate(model: type[RequestT], raw: Mapping[str, Any]) -> RequestT:
    """Like `parse`, for a body that is already decoded."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _as_invalid_request(model, error) from None


def _refuse_constant(name: str) -> float:
    # json.loads accepts NaN and Infinity, which are not JSON.
    raise ValueError(f"{name} is not a JSON number")


def _as_invalid_request(model: type[BaseModel], error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_context=False)[0]
    location = [str(part) for part in first["loc"]]
    param = ".".join(location) or None
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
