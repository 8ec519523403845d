"""When to ask again: back-off that doubles, with jitter, and no sooner than the server asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom

from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # by name only

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


def asked_pause(headers: Mapping[str, str], now: datetime) -> float | None:
    """For how many seconds the server of this answer wants to be left alone; None when it does not say.

    Retry-After holds seconds or a date; the Hub's rate limit says when its window begins anew.
    (https://www.rfc-editor.org/rfc/rfc9110#name-retry-after, https://huggingface.co/docs/hub/rate-limits)
    """
    header = headers.get("Retry-After")
    if header is not None:
        try:
            return max(float(header) if header.strip().isdecimal() else _until(header, now), 0.0)
        except ValueError:
            return None
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _until(date: str, now: datetime) -> float:
    then = parsedate_to_datetime(date)
    return (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds()
