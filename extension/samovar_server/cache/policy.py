"""Who has to leave memory, and when: pure functions of what is held, the budget and the time.

Times are seconds on the cache's clock; sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

NEVER = 0.0
"""The time to live of a model that stays until it is unloaded or makes room."""

AFTER_USE = -1.0
"""The time to live of a model that is unloaded as soon as nobody uses it."""

Phase = Literal["waiting", "resident", "leaving"]
"""`waiting`: room is promised, no process yet. `resident`: a process holds the memory. `leaving`: it
still does, and will give it back by itself."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One model's claim on the memory of a device. `idle`: nobody uses it or waits for it."""

    key: str
    memory_bytes: int
    phase: Phase
    idle: bool
    pinned: bool
    last_used: float
    expires_at: float | None = None

    @property
    def may_go(self) -> bool:
        """Whether it may be evicted."""
        return self.phase == "resident" and self.idle and not self.pinned


@dataclass(frozen=True, slots=True)
class Decision:
    """What a load that needs room has to do.

    `start`: the room is there, nobody has to go. `wait`: evict these, and decide again when something
    has left. `refuse`: there is no way; `missing_bytes` would be lacking even if all idle models went.
    """

    action: Literal["start", "wait", "refuse"]
    evict: tuple[str, ...] = ()
    missing_bytes: int = 0


def decide(target_bytes: int, holdings: Sequence[Holding], budget: int, now: float) -> Decision:
    """Make room for `target_bytes` more within `budget`.

    Holdings that wait are those with an earlier promise: their room is not given away. Evicts as few
    as needed: those first whose time is over, then the least recently used.
    """
    held = sum(holding.memory_bytes for holding in holdings)
    if held + target_bytes <= budget:
        return Decision("start")
    leaving = sum(holding.memory_bytes for holding in holdings if holding.phase == "leaving")
    needed = held - leaving + target_bytes - budget
    candidates = sorted((holding for holding in holdings if holding.may_go), key=lambda h: _turn(h, now))
    victims: list[Holding] = []
    freed = 0
    for holding in candidates:
        if freed >= needed:
            break
        victims.append(holding)
        freed += holding.memory_bytes
    if freed < needed:
        return Decision("refuse", missing_bytes=needed - freed)
    # A large victim can make the smaller ones before it needless: the latest used are spared first.
    for holding in reversed(victims.copy()):
        if freed - holding.memory_bytes >= needed:
            victims.remove(holding)
            freed -= holding.memory_bytes
    return Decision("wait", evict=tuple(holding.key for holding in victims))


def expiry(ttl: float, idle_since: float) -> float | None:
    """When a model that nobody has used since `idle_since` has to go; None: never."""
    return None if ttl == NEVER else idle_since + max(ttl, 0.0)


def expired(holdings: Iterable[Holding], now: float) -> list[str]:
    """The keys of the models whose time is over."""
    return [holding.key for holding in holdings if holding.may_go and _is_over(holding, now)]


def next_expiry(holdings: Iterable[Holding]) -> float | None:
    """When to look at `expired` again; None when nothing is going to expire."""
    times = [h.expires_at for h in holdings if h.may_go and h.expires_at is not None]
    return min(times, default=None)


def _is_over(holding: Holding, now: float) -> bool:
    return holding.expires_at is not None and holding.expires_at <= now


def _turn(holding: Holding, now: float) -> tuple[bool, float]:
    return not _is_over(holding, now), holding.last_used
