"""A request inside the engine: one prompt, one output, and where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from samovar_server.engine.text import TextStream
from samovar_server.protocol.generation import FinishReason
from samovar_server.protocol.sampling import SamplingParams


class Phase(Enum):
    """Where a sequence is on its way. Only PREFILL and DECODE hold a slot."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Output:
    """What one step added to a sequence: text that is safe to show, and the end when it came."""

    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt being continued.

    `emit` is called with each Output on the thread the engine delivers to. `max_tokens` is already cut
    to what the context window leaves.
    """

    prompt: list[int]
    sampling: SamplingParams
    max_tokens: int
    text: TextStream
    emit: Callable[[Output], None]
    output: list[int] = field(default_factory=list)
    phase: Phase = Phase.WAITING
    slot: int = -1
    prefilled: int = 0
    cached_tokens: int = 0
    arrived: float = field(default_factory=time.monotonic)

    @property
    def position(self) -> int:
        """Where the newest output token stands: the position the next decode step writes."""
        return len(self.prompt) + len(self.output) - 1

    @property
    def max_length(self) -> int:
        """Positions this sequence may come to need."""
        return len(self.prompt) + self.max_tokens
