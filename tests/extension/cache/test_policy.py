from __future__ import annotations

import random

import pytest

from samovar_server.cache.policy import Decision, Holding, Phase, decide, expired, expiry, next_expiry


def holding(
    key: str,
    size: int,
    last_used: float = 0.0,
    *,
    phase: Phase = "resident",
    idle: bool = True,
    pinned: bool = False,
    expires_at: float | None = None,
) -> Holding:
    return Holding(key, size, phase, idle, pinned, last_used, expires_at)


def test_free_room_is_taken_and_nobody_has_to_go() -> None:
    assert decide(40, [holding("a", 60)], 100, now=1) == Decision("start")


def test_the_least_recently_used_goes_first() -> None:
    held = [holding("newer", 50, last_used=2), holding("older", 50, last_used=1)]
    assert decide(30, held, 100, now=3) == Decision("wait", evict=("older",))


def test_one_whose_time_is_over_goes_before_one_that_was_used_longer_ago() -> None:
    held = [holding("older", 50, last_used=1), holding("over", 50, last_used=2, expires_at=3)]
    assert decide(30, held, 100, now=3) == Decision("wait", evict=("over",))


def test_only_as_many_as_needed_go() -> None:
    held = [holding("a", 30, 1), holding("b", 30, 2), holding("c", 30, 3)]
    assert decide(50, held, 100, now=4).evict == ("a", "b")


def test_a_small_model_is_spared_when_a_larger_one_has_to_go_anyway() -> None:
    held = [holding("small", 10, 1), holding("large", 80, 2)]
    assert decide(60, held, 100, now=3).evict == ("large",)


@pytest.mark.parametrize(
    "kept",
    [
        holding("busy", 80, idle=False),
        holding("pinned", 80, pinned=True),
        holding("promised", 80, phase="waiting"),
    ],
)
def test_busy_pinned_and_promised_ones_stay(kept: Holding) -> None:
    decision = decide(50, [kept, holding("idle", 10, 9)], 100, now=10)
    assert decision == Decision("refuse", missing_bytes=30)


def test_what_is_leaving_is_waited_for_and_not_replaced_by_a_victim() -> None:
    held = [holding("leaving", 60, phase="leaving", idle=False), holding("idle", 40)]
    assert decide(50, held, 100, now=1) == Decision("wait")


def test_a_model_larger_than_the_budget_is_refused_and_evicts_nobody() -> None:
    assert decide(120, [holding("a", 50)], 100, now=1) == Decision("refuse", missing_bytes=20)


@pytest.mark.parametrize(("ttl", "expected"), [(0.0, None), (5.0, 15.0)])
def test_the_time_to_live_counts_from_the_last_use(ttl: float, expected: float | None) -> None:
    assert expiry(ttl, idle_since=10.0) == expected


def test_only_idle_unpinned_models_expire() -> None:
    held = [
        holding("over", 1, expires_at=5),
        holding("later", 1, expires_at=7),
        holding("never", 1),
        holding("pinned", 1, pinned=True, expires_at=1),
        holding("busy", 1, idle=False, expires_at=1),
        holding("leaving", 1, phase="leaving", expires_at=1),
    ]
    assert expired(held, now=5) == ["over"]
    assert next_expiry(held) == 5
    assert next_expiry(held[2:]) is None


def test_any_decision_keeps_the_budget_and_takes_no_more_than_needed() -> None:
    for seed in range(5000):
        try:
            check_a_decision(random.Random(seed))
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


def check_a_decision(rng: random.Random) -> None:
    phases: list[Phase] = ["waiting", "resident", "resident", "resident", "leaving"]
    held = [
        holding(
            str(number),
            rng.randint(0, 40),
            rng.random(),
            phase=rng.choice(phases),
            idle=rng.random() < 0.7,
            pinned=rng.random() < 0.2,
            expires_at=rng.choice([None, rng.random()]),
        )
        for number in range(rng.randint(0, 6))
    ]
    target, budget, now = rng.randint(1, 80), rng.randint(1, 150), rng.random()
    decision = decide(target, held, budget, now)

    by_key = {one.key: one for one in held}
    victims = [by_key[key] for key in decision.evict]
    total = sum(one.memory_bytes for one in held)
    leaving = sum(one.memory_bytes for one in held if one.phase == "leaving")
    could_go = sum(one.memory_bytes for one in held if one.may_go)
    freed = sum(one.memory_bytes for one in victims)
    assert all(one.may_go for one in victims)
    if decision.action == "start":
        assert total + target <= budget
        assert not victims
    elif decision.action == "refuse":
        assert total - leaving - could_go + target - budget == decision.missing_bytes > 0
        assert not victims
    else:
        assert total + target > budget
        assert total - leaving - freed + target <= budget
        assert all(total - leaving - freed + one.memory_bytes + target > budget for one in victims)
