"""Answers of the generating routes: chat completions and their stream events.

https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted tokens. `cached_tokens` of the prompt were found in the KV cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        """The `usage` object of an answer."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """Builds the JSON of one chat completion, whole or in chunks; all share id and time."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finish_reason: FinishReason, usage: Usage) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return self._envelope("chat.completion", [choice]) | {"usage": usage.as_json()}

    def first_chunk(self) -> dict[str, Any]:
        """Opens a stream: the role, before any text."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def text_chunk(self, text: str) -> dict[str, Any]:
        """Text of one step."""
        return self._chunk({"content": text}, None)

    def last_chunk(self, finish_reason: FinishReason) -> dict[str, Any]:
        """Closes the choice and says why."""
        return self._chunk({}, finish_reason)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The event `stream_options.include_usage` asks for: no choices, only the counts."""
        return self._envelope("chat.completion.chunk", []) | {"usage": usage.as_json()}

    def _chunk(self, delta: dict[str, str], finish_reason: FinishReason | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._envelope("chat.completion.chunk", [choice])

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
