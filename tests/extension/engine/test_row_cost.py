"""What a draft's row costs is read off the steps."""

from __future__ import annotations

import random

import pytest

from samovar_server.engine.row_cost import EXPECTED_SHARE, LEAST_SHARE, RowCost


@pytest.mark.parametrize("seed", range(30))
def test_it_settles_on_what_rows_cost(seed: int) -> None:
    rng = random.Random(seed)
    base, row = rng.uniform(0.005, 0.1), rng.uniform(0.001, 0.01)
    cost = RowCost()
    for _ in range(300):
        drafted = rng.randrange(30)
        cost = cost.after(4, drafted, (base + row * (4 + drafted)) * rng.uniform(0.95, 1.05))
    assert cost.row == pytest.approx(row, rel=0.35)
    assert cost.step(10) == pytest.approx(base + 10 * row, rel=0.1)


def test_sequences_that_come_and_go_say_nothing_about_drafts() -> None:
    rng = random.Random(0)
    cost = RowCost()
    for step in range(600):
        sequences, drafted = 1 + step // 7 % 16, rng.randrange(4)
        cost = cost.after(sequences, drafted, 0.02 + 0.001 * sequences + 0.004 * drafted)
    assert cost.row == pytest.approx(0.004, rel=0.1)


def test_before_steps_differ_it_is_a_share_of_a_step() -> None:
    cost = RowCost()
    assert cost.row == 0
    for _ in range(100):
        cost = cost.after(1, 0, 0.05)
    assert cost.row == pytest.approx(EXPECTED_SHARE * 0.05)
    assert cost.step(1) == pytest.approx(0.05)


def test_it_follows_a_change() -> None:
    cost = RowCost()
    for rows in [1, 2, 3, 4] * 50:
        cost = cost.after(1, rows - 1, 0.02 + 0.001 * rows)
    for rows in [1, 2, 3, 4] * 50:
        cost = cost.after(1, rows - 1, 0.02 + 0.004 * rows)
    assert cost.row == pytest.approx(0.004, rel=0.2)


def test_one_step_that_was_held_up_changes_little() -> None:
    cost = RowCost()
    for rows in [1, 2, 3, 4] * 50:
        cost = cost.after(1, rows - 1, 0.02 + 0.002 * rows)
    assert cost.after(1, 3, 30.0).row < 0.01


def test_rows_are_never_free_nor_dearer_than_the_whole_step() -> None:
    free, dear = RowCost(), RowCost()
    for rows in [1, 2, 3, 4] * 100:
        free = free.after(1, rows - 1, 0.05 - 0.005 * rows)
        dear = dear.after(1, rows - 1, 0.001 * rows**3)
    assert free.row > LEAST_SHARE * 0.5 * EXPECTED_SHARE * 0.03
    assert dear.row <= dear.seconds / dear.rows
