"""When to ask again: back-off that doubles, with jitter, and no sooner than the server asks for."""

from __future__ import annotations

from dataclasses import dataclass
from random import SystemRandom

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed later."""

_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait after failures that brought nothing new; those that did start the count anew."""

    first: float = 0.5
    longest: float = 30.0
    longest_asked: float = 300.0
    """The most of a server's Retry-After that is honoured."""
    attempts: int = 8

    def is_over(self, failures: int) -> bool:
        """Whether so many fruitless attempts in a row are enough."""
        return failures >= self.attempts

    def delay(self, failures: int, retry_after: float | None = None) -> float:
        """How long to wait after the `failures`-th one in a row (from 1 on)."""
        own = min(self.longest, self.first * 2.0 ** (failures - 1)) * _random.uniform(0.5, 1.0)
        return max(own, min(retry_after or 0.0, self.longest_asked))


def retry_after_seconds(header: str | None) -> float | None:
    """The seconds in a Retry-After header; None without one, or when it holds a date."""
    try:
        return None if header is None else max(float(header), 0.0)
    except ValueError:
        return None
