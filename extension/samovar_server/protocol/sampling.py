"""How the next token is chosen, as the engine sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """`temperature` 0 is greedy. Draws are a pure function of (`seed`, position in the output)."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
