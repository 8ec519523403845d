"""How many prompt tokens a step may take while others decode, so that its length stays bounded.

What a prompt token costs depends on the model, the machine, how far into the context it stands and how many
decode beside it. So the pace is not computed but followed: a step that took longer than it might makes the
next one take as many fewer as that was too many, one that took less allows a few more. A pure function of
the times that steps took.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from samovar_server.engine.grid import FINEST

STRETCH = 2.5
"""How many times as long as one that only decodes a step may be that takes prompt tokens too."""
SMOOTHING = 0.2
"""The share of the newest step in the average of steps that only decode."""
GROWTH = 8
"""Tokens by which a step may take more than the one before: a step that was quick by chance shows little."""
MOST_TOKENS = 256
"""What a step takes at most. With so many, reading the weights is a small part of it already."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`decode_seconds` is what a step takes that only decodes, None before the first; `tokens` are the
    prompt tokens that a step beside decoding may take, if one block of them is not more."""

    decode_seconds: float | None = None
    tokens: int = 64

    def after(self, seconds: float, *, decoded: bool, prefilled: int) -> Pace:
        """The pace after a step of `seconds` that decoded or not and took `prefilled` prompt tokens."""
        if not decoded:
            return self
        if not prefilled:
            before = self.decode_seconds if self.decode_seconds is not None else seconds
            return replace(self, decode_seconds=before + SMOOTHING * (seconds - before))
        if self.decode_seconds is None:
            return self
        spare = (STRETCH - 1) * self.decode_seconds
        extra = max(seconds - self.decode_seconds, 1e-9)
        filled = prefilled > self.tokens // 2  # the grid leaves less than half unused, a prompt's end more
        if not filled and extra <= spare:
            return self
        fitting = int(min(prefilled * spare / extra, self.tokens + GROWTH, MOST_TOKENS)) // FINEST * FINEST
        return replace(self, tokens=max(FINEST, fitting))
