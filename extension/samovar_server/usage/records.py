"""What is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of prompts, found in the KV cache or computed, and of answers."""

    prompt: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """What quotas go by."""
        return self.prompt + self.output

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.output + other.output)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt - other.prompt, self.output - other.output)


class Key(NamedTuple):
    """Whose tokens, of which model (by its name), and in which hour since 1970."""

    hour: int
    user: str
    model: str


@dataclass(frozen=True, slots=True)
class Count:
    """Requests and their tokens."""

    requests: int = 0
    tokens: Tokens = Tokens()

    def __add__(self, other: Count) -> Count:
        return Count(self.requests + other.requests, self.tokens + other.tokens)

    def as_json(self) -> dict[str, int]:
        """As GET /v1/usage shows it."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.tokens.prompt,
            "completion_tokens": self.tokens.output,
            "total_tokens": self.tokens.total,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """What one user has used of one model, in all and within the last day."""

    user: str
    model: str
    total: Count
    day: Count

    def as_json(self) -> dict[str, Any]:
        """As GET /v1/usage shows it."""
        return {"user": self.user, "model": self.model, **self.total.as_json(), "day": self.day.as_json()}
