"""`POST /v1/tokenize` and `/v1/detokenize`: the requests, checked."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from samovar_server.protocol.chat import Message
from samovar_server.protocol.fields import LoadFields, refusal


class TokenizeRequest(LoadFields):
    """Either `prompt`, or `messages` by the model's chat template.

    `add_special_tokens` is as for a completion's prompt: whatever the tokenizer puts around a text.
    """

    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise refusal("prompt", "send either prompt or messages")
        return self


class DetokenizeRequest(LoadFields):
    """Token ids to turn into text."""

    tokens: list[Annotated[int, Field(ge=0)]]
