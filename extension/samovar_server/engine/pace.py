"""How many prompt tokens a step may take while others decode, so that its length stays bounded.

What a prompt token costs depends on the model, the machine, how far into the context it stands and how many
decode beside it. So the pace is not computed but followed: a step that took longer than it might makes the
next one take fewer tokens, one that took less allows more. A pure function of the times that steps took.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from samovar_server.engine.attention import QUERY_BLOCK

STRETCH = 2.5
"""How many times as long as one that only decodes a step may be that takes prompt tokens too."""
SMOOTHING = 0.2
"""The share of the newest step in the average of steps that only decode."""
MOST_BLOCKS = 8
"""Blocks that a step takes at most. With so many, reading the weights is a small part of it already."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`decode_seconds` is what a step takes that only decodes, None before the first; `blocks` are those
    of QUERY_BLOCK tokens that a step beside decoding may take."""

    decode_seconds: float | None = None
    blocks: int = 2

    @property
    def budget(self) -> int:
        """Prompt tokens that a step may take while others decode."""
        return self.blocks * QUERY_BLOCK

    def after(self, seconds: float, *, decoded: bool, prefilled: int) -> Pace:
        """The pace after a step of `seconds` that decoded or not and took `prefilled` prompt tokens."""
        if not decoded:
            return self
        if not prefilled:
            before = self.decode_seconds if self.decode_seconds is not None else seconds
            return replace(self, decode_seconds=before + SMOOTHING * (seconds - before))
        if self.decode_seconds is None:
            return self
        allowed = STRETCH * self.decode_seconds
        if seconds > allowed:
            taken = -(-prefilled // QUERY_BLOCK)
            return replace(self, blocks=max(1, min(self.blocks, int(taken * allowed / seconds))))
        full = prefilled > self.budget - QUERY_BLOCK
        return replace(self, blocks=min(MOST_BLOCKS, self.blocks + 1)) if full else self
