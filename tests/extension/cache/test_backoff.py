from __future__ import annotations

import pytest

from samovar_server.cache.backoff import LONGEST_SECONDS, NO_FAILURES, Failures, wait_seconds


def test_after_one_or_two_failures_the_next_request_tries_at_once() -> None:
    assert wait_seconds(NO_FAILURES, 100.0) == 0
    once = NO_FAILURES.and_one_at(100.0)
    assert wait_seconds(once, 100.0) == 0
    assert wait_seconds(once.and_one_at(100.0), 100.0) == 0


@pytest.mark.parametrize(("count", "seconds"), [(3, 1), (4, 2), (5, 4), (8, 32), (9, 60), (10**6, 60)])
def test_the_wait_doubles_up_to_a_minute(count: int, seconds: float) -> None:
    failures = Failures(count, last=100.0)
    assert wait_seconds(failures, 100.0) == seconds
    assert wait_seconds(failures, 100.25) == seconds - 0.25
    assert wait_seconds(failures, 100.0 + LONGEST_SECONDS) == 0
