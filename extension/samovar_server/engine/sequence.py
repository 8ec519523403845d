"""A request inside the engine: one prompt, one output, and where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from samovar_server.engine.adapters import Adapter
from samovar_server.engine.draft import Drafter
from samovar_server.engine.sampler import Matcher
from samovar_server.engine.text import TextStream
from samovar_server.errors import SamovarError
from samovar_server.protocol.generation import FinishReason
from samovar_server.protocol.place import Place
from samovar_server.protocol.sampling import SamplingParams, TokenScore


class Phase(Enum):
    """Where a sequence is on its way. Only PREFILL and DECODE hold a slot."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Output:
    """What one step added to a sequence: text that is safe to show, and the end when it came.

    `score` is of the step's token, when scores were asked for; a stop token has one too, though it is not
    part of the text: as in vLLM, there are as many scores as tokens, and lm-eval counts on it. `error` ends
    a sequence too, without text.
    """

    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None
    score: TokenScore | None = None
    error: SamovarError | None = None

    @property
    def is_last(self) -> bool:
        """Whether the sequence has come to its end."""
        return self.finish_reason is not None or self.error is not None


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt being continued.

    `emit` is called with each Output on the thread the engine delivers to. `max_tokens` is already cut
    to what the context window leaves; 0 only scores the prompt. `logprobs` asks for the score of every
    token with that many alternatives, `prompt_logprobs` for those of the prompt, which are in
    `prompt_scores` when the first Output comes (the first token has none). `place` is what the server said
    of the slots it may have, `adapter` what is added to the model for it.
    """

    prompt: list[int]
    sampling: SamplingParams
    max_tokens: int
    text: TextStream
    emit: Callable[[Output], None]
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    place: Place = field(default_factory=Place)
    adapter: Adapter | None = None
    grammar: Matcher | None = None
    output: list[int] = field(default_factory=list)
    prompt_scores: list[TokenScore] = field(default_factory=list)
    phase: Phase = Phase.WAITING
    slot: int = -1
    prefilled: int = 0
    cached_tokens: int = 0
    drafter: Drafter | None = None
    arrived: float = field(default_factory=time.monotonic)

    @property
    def salt(self) -> str:
        """Under which prefixes are reused: keys and values are those of the model with this adapter."""
        return self.place.salt if self.adapter is None else f"{self.place.salt}+{self.adapter.key}"

    @property
    def position(self) -> int:
        """Where the newest output token stands: the position the next decode step writes."""
        return len(self.prompt) + len(self.output) - 1
