"""How many prompt tokens a step may take, so that its length stays bounded while others decode.

What a prompt token costs depends on the model, the machine, how far into the context it stands and how many
decode beside it. So the pace is not computed but followed: a step that took longer than it might makes the
next one take as many fewer as that was too many, one that took less allows a few more. Pure functions of the
times that steps took, and of who waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

STRETCH = 2.2
"""How many times as long as one that only decodes a step may be that takes prompt tokens too. Some come out
longer: others are to wait no more than three times as long for a token."""
SMOOTHING = 0.2
"""The share of the newest step in the average of steps that only decode."""
GROWTH = 8
"""Tokens by which a step may take more than the one before: a step that was quick by chance shows little."""
LEAST_TOKENS = 4
"""What a step takes at least, so that a prompt gets in whatever it costs."""
MOST_TOKENS = 256
"""What a step takes of long prompts at most. With so many, reading the weights is a small part of it."""
SHORT = 128
"""The longest prompt for which those who decode are let wait once, if they are the fewer."""
TOGETHER = 1024
"""What a step takes of short prompts at most."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`decode_seconds` is what a step takes that only decodes `rows`, None before the first; `tokens` are the
    prompt tokens that a step beside decoding may take."""

    decode_seconds: float | None = None
    rows: int = 0
    tokens: int = 64

    def after(self, seconds: float, *, rows: int, prefilled: int) -> Pace:
        """The pace after a step of `seconds` that decoded `rows` and took `prefilled` prompt tokens."""
        if not rows:
            return self
        if not prefilled:
            before = self.decode_seconds
            if before is None or rows != self.rows:
                before = seconds
            return replace(self, decode_seconds=before + SMOOTHING * (seconds - before), rows=rows)
        if self.decode_seconds is None:
            return self
        # Rows that have come since the last step that only decoded are paid like so many prompt tokens:
        # what they cost belongs to decoding, and allows more beside it.
        newcomers = max(rows - self.rows, 0)
        token_seconds = max(seconds - self.decode_seconds, 1e-9) / (prefilled + newcomers)
        decode_seconds = self.decode_seconds + newcomers * token_seconds
        spare = (STRETCH - 1) * decode_seconds
        filled = prefilled > self.tokens // 2  # a prompt's end leaves some unused
        if not filled and prefilled * token_seconds <= spare:
            return self
        fitting = int(min(spare / token_seconds, self.tokens + GROWTH, MOST_TOKENS))
        return replace(self, tokens=max(LEAST_TOKENS, fitting))


def prefill_budget(pace: Pace, decoding: int, coming: Sequence[int]) -> int:
    """How many prompt tokens the next step may take, beside `decoding` rows.

    `coming` are the lengths of what is left of the prompts that could be computed now, in their order.
    The pace holds for one of them beside each row that decodes. Where more of them wait, they may take as
    many times more: a few streams do not hold up many. Short prompts that outnumber the rows may take what
    they are: the few then wait a step for the many, once, where the many would wait several for the few, and
    all of them decode together from then on.
    """
    short = list(takewhile(lambda tokens: tokens <= SHORT, coming))
    if len(short) > decoding:
        return max(MOST_TOKENS, min(sum(short), TOGETHER))
    if not decoding:
        return MOST_TOKENS
    return min(int(pace.tokens * max(len(coming) / decoding, 1)), MOST_TOKENS)
