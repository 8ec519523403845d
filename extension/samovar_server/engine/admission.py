"""Who the KV cache has room for: sequences are let in and grow so that each can come to its end.

A sequence may come to hold all that its prompt and `max_tokens` say, though few do. Reserving as much for
each would let in a handful; reserving nothing would let memory run out in the middle of answers. So they
share the room as long as the state is safe in the sense of the banker's algorithm (Dijkstra, EWD 108, 1965):
there is an order in which all can end, each with what is free and what those before it give back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """Positions of the KV cache that a sequence holds, and the most that it may come to hold."""

    held: int
    most: int

    @property
    def rest(self) -> int:
        """What may still come."""
        return self.most - self.held

    def grown(self, positions: int = 1) -> Claim:
        """The claim after so many positions more."""
        return Claim(self.held + positions, self.most)


def is_safe(claims: Iterable[Claim], room: int) -> bool:
    """Whether sequences with these claims can all come to their end within `room` positions."""
    claims = sorted(claims, key=lambda claim: claim.rest)
    free = room - sum(claim.held for claim in claims)
    for claim in claims:
        if claim.rest > free:
            return False
        free += claim.held
    return free >= 0


def may_grow(claims: Sequence[Claim], wanting: Sequence[bool], room: int) -> list[bool]:
    """Which of those `wanting` may take one position, the first ones first. If the state is safe, some may.

    (That with the least rest always may: it has room for all its rest.)
    """
    state = [claim.grown() if wants else claim for claim, wants in zip(claims, wanting, strict=True)]
    if is_safe(state, room):
        return list(wanting)
    state, allowed = list(claims), [False] * len(claims)
    for index, claim in enumerate(claims):
        if not wanting[index]:
            continue
        state[index] = claim.grown()
        allowed[index] = is_safe(state, room)
        if not allowed[index]:
            state[index] = claim
    return allowed
