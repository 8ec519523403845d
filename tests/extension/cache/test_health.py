from __future__ import annotations

import pytest

from samovar_server.cache.health import STALL_FACTOR, Health, ailment, has_grown, observe
from samovar_server.loader.status import WorkerStatus

PATIENCE = 10.0


def test_a_worker_that_does_not_answer_is_lost_after_a_while() -> None:
    health = observe(Health(0, 0), WorkerStatus(running=1, steps=1), 5)
    health = observe(health, None, 9)
    assert ailment(health, 14.9, PATIENCE) is None
    assert "has not answered for 10 s" in (ailment(health, 15, PATIENCE) or "")
    assert ailment(observe(health, WorkerStatus(), 15), 16, PATIENCE) is None


def test_an_engine_that_makes_no_step_is_given_longer() -> None:
    health = observe(Health(0, 0), WorkerStatus(running=1, steps=7), 0)
    end = PATIENCE * STALL_FACTOR
    for now in (1, 50, end):
        health = observe(health, WorkerStatus(running=1, steps=7), now)
    assert ailment(health, end - 1, PATIENCE) is None
    assert "has made no step for 100 s" in (ailment(health, end, PATIENCE) or "")
    assert ailment(observe(health, WorkerStatus(running=1, steps=8), end), end, PATIENCE) is None


@pytest.mark.parametrize("status", [WorkerStatus(running=0, steps=7), WorkerStatus(running=3)])
def test_an_engine_that_rests_or_does_not_count_its_steps_is_not_stalled(status: WorkerStatus) -> None:
    health = Health(0, 0, 7)
    for now in range(0, 1000, 5):
        health = observe(health, status, now)
    assert ailment(health, 1000, PATIENCE) is None


@pytest.mark.parametrize(("taken", "grown"), [(None, False), (90, False), (101, False), (103, True)])
def test_a_little_more_than_it_counts_with_is_no_growth(taken: int | None, grown: bool) -> None:
    assert has_grown(WorkerStatus(memory_bytes=taken), 100) is grown
    assert not has_grown(None, 100)
