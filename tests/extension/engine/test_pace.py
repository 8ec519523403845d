"""The pace at which prompts are computed beside others' tokens follows what steps take."""

from __future__ import annotations

import itertools
import random

import pytest

from samovar_server.engine.pace import (
    LEAST_TOKENS,
    MOST_TOKENS,
    SHORT,
    STRETCH,
    TOGETHER,
    Pace,
    prefill_budget,
)


def run(pace: Pace, decode: float, token: float, steps: int) -> tuple[Pace, list[float]]:
    """Steps with a long prompt waiting, on a machine with these costs; the last pace, and their seconds."""
    taken = []
    for _ in range(steps):
        taken.append(decode + token * pace.tokens)
        pace = pace.after(taken[-1], rows=1, prefilled=pace.tokens)
    return pace, taken


@pytest.mark.parametrize("seed", range(50))
def test_steps_settle_below_the_bound_or_at_the_smallest_piece(seed: int) -> None:
    rng = random.Random(seed)
    decode, token = rng.uniform(0.005, 0.1), rng.uniform(1e-5, 5e-3)
    pace = Pace(decode_seconds=decode, rows=1, tokens=rng.randrange(LEAST_TOKENS, MOST_TOKENS + 1))
    pace, taken = run(pace, decode, token, 40)
    smallest = decode + token * LEAST_TOKENS
    # It feels its way up and is thrown back: above the bound never twice in a row, once it has settled.
    above = [seconds > max(STRETCH * decode, smallest) * 1.001 for seconds in taken[5:]]
    assert not any(first and second for first, second in itertools.pairwise(above))


def test_cheap_prompts_are_taken_in_large_pieces_and_dear_ones_in_small() -> None:
    assert run(Pace(0.05, 1), 0.05, 1e-6, 40)[0].tokens == MOST_TOKENS
    assert run(Pace(0.05, 1), 0.05, 1.0, 20)[0].tokens == LEAST_TOKENS


def test_nothing_is_concluded_from_steps_that_do_not_show_it() -> None:
    pace = Pace(0.05, 1, tokens=96)
    assert pace.after(9.0, rows=0, prefilled=256) == pace, "nobody waited for this one"
    assert pace.after(0.06, rows=1, prefilled=5) == pace, "a short prompt's end does not fill the step"
    assert Pace().after(9.0, rows=1, prefilled=64) == Pace(), "there is nothing to compare with"


def test_the_decode_time_is_followed() -> None:
    pace = Pace()
    for _ in range(30):
        pace = pace.after(0.02, rows=1, prefilled=0)
    for _ in range(30):
        pace = pace.after(0.04, rows=1, prefilled=0)
    assert pace.decode_seconds == pytest.approx(0.04, rel=0.05)


def test_rows_that_came_since_are_no_prompts_cost() -> None:
    alone = Pace(0.02, 1, tokens=32)
    # 15 more rows: the step takes long because of them, and a prompt beside so many may take long, too.
    assert alone.after(0.02 + 47 * 0.001, rows=16, prefilled=32).tokens == 40
    assert alone.after(0.02 + 47 * 0.001, rows=1, prefilled=32).tokens < 32


def test_a_new_number_of_rows_has_its_own_decode_time() -> None:
    assert Pace(0.02, 1).after(0.05, rows=16, prefilled=0).decode_seconds == 0.05
    assert Pace(0.02, 16).after(0.05, rows=16, prefilled=0).decode_seconds == pytest.approx(0.026)


@pytest.mark.parametrize(
    ("decoding", "coming", "budget"),
    [
        (0, [4000], MOST_TOKENS),
        (3, [4000], 40),  # a long prompt stalls nobody,
        (3, [4000] * 3, 40),
        (2, [4000] * 3, 60),  # but one stream does not hold up many,
        (1, [4000] * 15, MOST_TOKENS),  # up to a bound,
        (1, [40] * 12, 480),  # and short prompts come in together
        (0, [40] * 12, 480),
        (12, [40] * 12, 40),
        (1, [100] * 15, TOGETHER),
        (1, [20, 30], MOST_TOKENS),
        (1, [4000, 50, 50], 120),  # where no long one is before them
        (1, [50, 50, 4000], MOST_TOKENS),
        (0, [SHORT + 1], MOST_TOKENS),
    ],
)
def test_who_waits_and_who_decodes_share_a_step(decoding: int, coming: list[int], budget: int) -> None:
    assert prefill_budget(Pace(0.05, decoding, tokens=40), decoding, coming) == budget
