"""What is counted."""

from __future__ import annotations

from dataclasses import dataclass


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
