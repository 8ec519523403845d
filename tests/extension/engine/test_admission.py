"""Whom the KV cache has room for, held against every order in which sequences could end."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from samovar_server.engine.admission import Claim, is_safe, may_grow


def ends(order: tuple[Claim, ...], room: int) -> bool:
    """Whether the sequences can come to their end in this order."""
    free = room - sum(claim.held for claim in order)
    for claim in order:
        if claim.rest > free:
            return False
        free += claim.held
    return free >= 0


def some(rng: random.Random, most: int) -> Claim:
    bound = rng.randrange(1, most)
    return Claim(rng.randrange(bound + 1), bound)


@pytest.mark.parametrize("seed", range(300))
def test_a_state_is_safe_if_there_is_an_order_in_which_all_can_end(seed: int) -> None:
    rng = random.Random(seed)
    claims = [some(rng, 30) for _ in range(rng.randrange(6))]
    room = rng.randrange(80)
    assert is_safe(claims, room) == any(ends(order, room) for order in permutations(claims))


@pytest.mark.parametrize("seed", range(100))
def test_who_was_let_in_comes_to_its_end_and_the_first_are_held_up_least(seed: int) -> None:
    rng = random.Random(seed)
    room = 100
    claims: list[Claim] = []
    for _ in range(20):
        newcomer = some(rng, room)
        if is_safe([*claims, newcomer], room):
            claims.append(newcomer)
    while claims := [claim for claim in claims if claim.rest]:  # who has ended gives all back
        allowed = may_grow(claims, [True] * len(claims), room)
        assert any(allowed)
        assert allowed[0] == is_safe([claims[0].grown(), *claims[1:]], room)
        claims = [claim.grown() if may else claim for claim, may in zip(claims, allowed, strict=True)]
        assert is_safe(claims, room)


def test_all_grow_together_where_there_is_room_for_it() -> None:
    assert may_grow([Claim(1, 9), Claim(2, 9)], [True, False], 30) == [True, False]
    assert may_grow([Claim(4, 9), Claim(4, 9)], [True, True], 13) == [True, False]
