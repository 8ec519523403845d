"""`POST /v1/chat/completions`: the request, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from samovar_server.protocol.fields import GenerationRequest, parse, refusal
from samovar_server.protocol.response_format import ResponseFormat
from samovar_server.protocol.tools import MAX_TOOLS, Tool, ToolCall, ToolChoice, ToolChoiceField


class TextPart(BaseModel):
    """One part of a message's content. Only text is supported."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of the conversation. A tool's answers the call `tool_call_id` of an assistant's turn."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[TextPart] = []
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_means_absent(cls, data: Any) -> Any:
        # Clients send answers back as they came, with `"refusal": null` and the like.
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if "content" not in self.model_fields_set and self.tool_calls is None:
            raise ValueError("content is needed")
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("tool_calls are for role assistant only")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id goes with role tool, which needs it")
        return self

    @field_validator("content", mode="before")
    @classmethod
    def _string_as_one_part(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    def text(self) -> str:
        """The content as one string."""
        return "".join(part.text for part in self.content)

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it. OpenAI's newer `developer` is their `system`."""
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.text(),
        }
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_calls is not None:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        return message


class ChatRequest(GenerationRequest):
    """A checked chat completion request.

    A tool_choice of "auto" is the default where there are tools, and `parallel_tool_calls` false allows one
    call at most.
    """

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    response_format: ResponseFormat = ResponseFormat(type="text")
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, default_factory=list)]
    tool_choice: ToolChoiceField = ToolChoice(type="auto")
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise refusal("max_tokens", "it means the same as max_completion_tokens, which has another value")
        return self

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refusal("top_logprobs", "it goes with logprobs: true only")
        return self

    @model_validator(mode="after")
    def _tools_fit(self) -> Self:
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise refusal("tools", "two functions have the same name")
        if not names and self.tool_choice.type in ("required", "function"):
            raise refusal("tool_choice", "there are no tools to choose from")
        if not names and "parallel_tool_calls" in self.model_fields_set:
            raise refusal("parallel_tool_calls", "it goes with tools only")
        if self.tool_choice.function is not None and self.tool_choice.function.name not in names:
            raise refusal("tool_choice", f"no tool has the name {self.tool_choice.function.name[:64]!r}")
        return self

    @model_validator(mode="after")
    def _grammar_ends_the_text(self) -> Self:
        if not self.is_constrained:
            return self
        for param, value in (("min_tokens", self.min_tokens), ("ignore_eos", self.ignore_eos)):
            if value:
                raise refusal(param, "with response_format or tools, a grammar says where the text ends")
        return self

    def callable_tools(self) -> list[Tool]:
        """The tools that may be called: with tool_choice "none" the model does not even see them."""
        if self.tool_choice.function is not None:
            return [tool for tool in self.tools if tool.function.name == self.tool_choice.function.name]
        return [] if self.tool_choice.type == "none" else self.tools

    @property
    def is_constrained(self) -> bool:
        """Whether a grammar holds the answer."""
        return self.response_format.type != "text" or bool(self.callable_tools())

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice.type in ("required", "function")

    def output_limit(self) -> int | None:
        """See GenerationRequest."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def parse_chat_request(body: bytes) -> ChatRequest:
    """The request in `body`; InvalidRequest names the field at fault."""
    return parse(ChatRequest, body)
