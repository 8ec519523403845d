"""Which new tokens are attended with at once."""

from __future__ import annotations

import random

import pytest

from samovar_server.engine.grid import decode_length
from samovar_server.engine.rounds import rounds
from samovar_server.engine.step import NewToken

CALL = 350.0


def new(slots: list[int], positions: list[int], ahead: int = 0) -> list[NewToken]:
    return [NewToken(*each, None, ahead) for each in zip(slots, [0] * len(slots), positions, strict=True)]


def test_neighbours_of_a_length_are_taken_together() -> None:
    assert list(rounds(new([0, 1, 2, 3], [90, 70, 100, 80]), CALL)) == [slice(0, 4)]


def test_one_who_has_read_much_does_not_make_the_others_read_as_much() -> None:
    tokens = new([0, 1, 2, 3, 4], [90, 70, 4000, 80, 60])
    assert list(rounds(tokens, CALL)) == [slice(0, 2), slice(2, 3), slice(3, 5)]


def test_slots_that_decode_nothing_are_skipped_where_that_is_worth_a_call() -> None:
    assert list(rounds(new([0, 2], [30, 30]), CALL)) == [slice(0, 2)]
    assert list(rounds(new([0, 15], [100, 100]), CALL)) == [slice(0, 1), slice(1, 2)]


def test_no_slot_is_twice_in_a_round() -> None:
    tokens = new([0, 1], [50, 50]) + new([0, 1], [51, 51], 1) + new([1], [52], 2)
    assert list(rounds(tokens, float("inf"))) == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_nothing_makes_no_round() -> None:
    assert list(rounds([], CALL)) == []


@pytest.mark.parametrize("seed", range(50))
def test_it_is_never_dearer_than_all_together_or_each_alone(seed: int) -> None:
    rng = random.Random(seed)
    slots = sorted(rng.sample(range(16), rng.randrange(1, 17)))
    tokens = new(slots, [rng.choice([rng.randrange(100), rng.randrange(4000)]) for _ in slots])

    def cost(parts: list[slice]) -> float:
        total = 0.0
        for part in parts:
            mine = tokens[part]
            span = mine[-1].slot - mine[0].slot + 1
            total += CALL + span * max(decode_length(token.position + 1) for token in mine)
        return total

    chosen = list(rounds(tokens, CALL))
    assert [index for part in chosen for index in range(part.start, part.stop)] == list(range(len(tokens)))
    assert cost(chosen) <= min(
        cost([slice(0, len(tokens))]), cost([slice(n, n + 1) for n in range(len(tokens))])
    )
