"""When a day's quota has room again."""

from __future__ import annotations

import random

from samovar_server.quotas.window import HOUR, WINDOW_HOURS, first_hour, hour_of, seconds_until_free

NOON = 1_700_000_000 // HOUR * HOUR + 1800.0  # half an hour into its hour
NOW = hour_of(NOON)


def test_fewer_tokens_than_the_limit_are_no_matter() -> None:
    assert seconds_until_free({}, 1, NOON) is None
    assert seconds_until_free({NOW: 99}, 100, NOON) is None


def test_there_is_room_when_enough_of_the_oldest_hours_are_over() -> None:
    tokens = {NOW - 20: 30, NOW - 10: 50, NOW: 40}
    assert seconds_until_free(tokens, 120, NOON) == 4 * HOUR - 1800
    assert seconds_until_free(tokens, 91, NOON) == 4 * HOUR - 1800
    assert seconds_until_free(tokens, 90, NOON) == 14 * HOUR - 1800
    assert seconds_until_free(tokens, 1, NOON) == 24 * HOUR - 1800


def test_what_is_older_than_a_day_does_not_count() -> None:
    assert seconds_until_free({NOW - WINDOW_HOURS: 1000}, 10, NOON) is None
    assert seconds_until_free({NOW - WINDOW_HOURS + 1: 10}, 10, NOON) == HOUR - 1800


def test_after_the_time_that_is_told_there_is_room_and_not_a_second_before() -> None:
    rng = random.Random(5)
    for _ in range(500):
        tokens = {NOW - rng.randrange(WINDOW_HOURS): rng.randrange(1, 50) for _ in range(rng.randrange(1, 9))}
        limit = rng.randrange(1, 200)
        wait = seconds_until_free(tokens, limit, NOON)
        if wait is not None:
            assert seconds_until_free(tokens, limit, NOON + wait) is None
            assert seconds_until_free(tokens, limit, NOON + wait - 1) is not None


def test_a_day_begins_with_a_whole_hour() -> None:
    assert first_hour(NOON) == NOW - 23
