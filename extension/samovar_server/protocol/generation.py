"""Answers of the generating routes: what they share, and the chat completion.

https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from samovar_server.protocol.sampling import TokenScore

FinishReason = Literal["stop", "length", "tool_calls"]


class TokenTexts(Protocol):
    """How answers show single tokens."""

    def text(self, token: int) -> str:
        """The token as text."""

    def raw(self, token: int) -> list[int]:
        """The token's bytes."""


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
class Answer:
    """The envelope that all events of an answer share: id, time, model.

    `counted` streams end with the token counts; all their other events say that these are null.
    """

    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]
    id_prefix: ClassVar[str]

    model: str
    texts: TokenTexts
    counted: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        return self._envelope(self.whole_object, choices) | {"usage": usage.as_json()}

    def chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """One event of a stream."""
        chunk = self._envelope(self.chunk_object, [choice])
        return chunk | {"usage": None} if self.counted else chunk

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The event `stream_options.include_usage` asks for: no choices, only the counts."""
        return self._envelope(self.chunk_object, []) | {"usage": usage.as_json()}

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id_prefix + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


@dataclass(frozen=True, slots=True)
class ChatAnswer(Answer):
    """A chat completion, whole or in chunks."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def choice(
        self,
        index: int,
        text: str,
        scores: Sequence[TokenScore] | None,
        finish_reason: FinishReason,
        tool_calls: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        """One whole choice. `scores` None: log-probabilities were not asked for."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if tool_calls:
            message |= {"content": text or None, "tool_calls": list(tool_calls)}
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs(scores),
            "finish_reason": finish_reason,
        }

    def first(self, index: int) -> dict[str, Any]:
        """Opens a choice's stream: the role, before any text."""
        return self.delta(index, {"role": "assistant", "content": ""}, None)

    def delta(
        self,
        index: int,
        delta: dict[str, Any],
        scores: Sequence[TokenScore] | None,
        finish_reason: FinishReason | None = None,
    ) -> dict[str, Any]:
        """What one step added to a choice."""
        return self.chunk(
            {
                "index": index,
                "delta": delta,
                "logprobs": self.logprobs(scores),
                "finish_reason": finish_reason,
            }
        )

    def logprobs(self, scores: Sequence[TokenScore] | None) -> dict[str, Any] | None:
        """The `logprobs` object of a choice."""
        if scores is None:
            return None
        return {
            "content": [
                self._token(score.token, score.logprob)
                | {"top_logprobs": [self._token(token, logprob) for token, logprob in score.top]}
                for score in scores
            ],
            "refusal": None,
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self.texts.text(token), "logprob": logprob, "bytes": self.texts.raw(token)}
