"""A day's quota: what counts of the past, and when there is room again. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

HOUR = 3600
WINDOW_HOURS = 24


def hour_of(now: float) -> int:
    """The hour of a time in Unix seconds, counted from 1970."""
    return int(now // HOUR)


def first_hour(now: float) -> int:
    """The first hour that counts: this one and the 23 before it make the day."""
    return hour_of(now) - WINDOW_HOURS + 1


def seconds_until_free(tokens: Mapping[int, int], limit: int, now: float) -> float | None:
    """Until the tokens of the day, by hour, are fewer than `limit`; None: they are so now.

    A limit of 0 is never kept; the answer is then when the last of them is forgotten.
    """
    counted = {hour: tokens[hour] for hour in sorted(tokens) if hour >= first_hour(now)}
    left = sum(counted.values())
    if left < limit:
        return None
    freed = hour_of(now)
    for hour, count in counted.items():
        freed, left = hour, left - count
        if left < limit:
            break
    return (freed + WINDOW_HOURS) * HOUR - now
