"""`tools` and `tool_choice`, and the tool calls in messages and answers.

https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from samovar_server.protocol.response_format import Name, Schema

MAX_TOOLS = 128


class FunctionDefinition(BaseModel):
    """A function that the model may call; without `parameters`, one that takes none.

    What a grammar cannot hold in `parameters` is refused, except with `strict` false, which leaves it to
    the model.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _of_an_object(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and value.get("type", "object") != "object":
            raise ValueError('the arguments of a function are an object; its schema has "type": "object"')
        return value

    def arguments_schema(self) -> dict[str, Any]:
        """The schema of the arguments."""
        if not self.parameters:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}


class Tool(BaseModel):
    """One of the tools. Only functions are supported."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["function"]
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        function = {
            "name": self.function.name,
            "description": self.function.description or "",
            "parameters": self.function.arguments_schema(),
        }
        return {"type": "function", "function": function}


class FunctionName(BaseModel):
    """Which function has to be called."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


class ToolChoice(BaseModel):
    """Whether tools may (auto), must (required) or cannot (none) be called, or which function must."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["none", "auto", "required", "function"]
    function: FunctionName | None = None

    @model_validator(mode="after")
    def _function_where_it_belongs(self) -> Self:
        if (self.type == "function") != (self.function is not None):
            raise ValueError('send "none", "auto", "required", or {"type": "function", "function": {"name"}}')
        return self


def _word_as_type(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


ToolChoiceField = Annotated[ToolChoice, BeforeValidator(_word_as_type)]


class FunctionCall(BaseModel):
    """A function the model called, with its arguments as JSON text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, value: str) -> str:
        try:
            arguments = json.loads(value or "{}")
            # Python reads what is no JSON (NaN) or no text ("\\ud800"), but does not write it.
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"they are not valid JSON ({error})") from None
        if not isinstance(arguments, dict):
            raise ValueError("they are not a JSON object")
        return value


class ToolCall(BaseModel):
    """A call in an assistant's message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: FunctionCall

    def for_template(self) -> dict[str, Any]:
        """The call as chat templates expect it: the arguments decoded."""
        arguments = json.loads(self.function.arguments or "{}")
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.function.name, "arguments": arguments},
        }


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A whole call in an answer."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_call_begins(index: int, call_id: str, name: str) -> dict[str, Any]:
    """The first delta of a call in a stream: which function, and no arguments yet."""
    return {"index": index, **tool_call(call_id, name, "")}


def tool_call_goes_on(index: int, arguments: str) -> dict[str, Any]:
    """A further delta: more of the arguments."""
    return {"index": index, "function": {"arguments": arguments}}
