"""`response_format`: text, any JSON object, or JSON by a schema.

https://platform.openai.com/docs/guides/structured-outputs
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_SCHEMA_CHARACTERS = 120_000
MAX_SCHEMA_DEPTH = 64

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
"""Of a schema or a function."""


def _within_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise ValueError(f"a schema may be nested at most {MAX_SCHEMA_DEPTH} deep")
    if len(json.dumps(schema, allow_nan=False)) > MAX_SCHEMA_CHARACTERS:
        raise ValueError(f"a schema may have at most {MAX_SCHEMA_CHARACTERS} characters")
    return schema


def _depth(value: Any) -> int:
    """Levels of objects and lists; without recursion, as it guards against deep ones."""
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
    return depth


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


Schema = Annotated[dict[str, Any], AfterValidator(_within_bounds)]
"""A JSON schema of bounded size; whether a grammar can hold it, the worker finds out."""


class NamedSchema(BaseModel):
    """A schema for the answer.

    What a grammar cannot hold is refused, except with `strict` false, which leaves it to the model.
    `name` and `description` are part of OpenAI's API and label the schema; the model does not see them.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    description: str | None = None
    schema_: Annotated[Schema, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What the text of an answer has to be."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with type json_schema, which needs it")
        return self
