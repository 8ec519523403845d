"""Choosing tokens: the published rules, the same draw for the same request, no influence of neighbours."""

from __future__ import annotations

import random

import pytest
import torch

from samovar_server.engine.sampler import sample, uniform
from samovar_server.protocol.sampling import SamplingParams

VOCABULARY = 1000


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def test_temperature_zero_takes_the_most_probable() -> None:
    rows = logits(4)
    assert sample(rows, [SamplingParams(temperature=0)] * 4, [0] * 4) == rows.argmax(-1).tolist()


def test_a_tiny_temperature_is_greedy_and_a_tiny_top_p_too() -> None:
    rows = logits(2)
    params = [SamplingParams(temperature=1e-6, seed=1), SamplingParams(top_p=1e-9, seed=2)]
    assert sample(rows, params, [5, 6]) == rows.argmax(-1).tolist()


def test_equal_seed_and_position_draw_equally_beside_any_neighbours() -> None:
    row, params = logits(1, seed=7), SamplingParams(temperature=1.2, top_p=0.95, seed=42)
    (alone,) = sample(row, [params], [11])
    for neighbours in (1, 3, 15):
        others = logits(neighbours, seed=neighbours)
        rng = random.Random(neighbours)
        at = rng.randrange(neighbours + 1)
        batch = torch.cat([others[:at], row, others[at:]])
        other = [SamplingParams(temperature=rng.choice([0.0, 0.7]), seed=rng.randrange(99)) for _ in others]
        tokens = sample(batch, [*other[:at], params, *other[at:]], [3] * at + [11] + [3] * (neighbours - at))
        assert tokens[at] == alone


def test_draws_follow_the_distribution() -> None:
    row = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    draws = [sample(row, [SamplingParams(seed=9)], [position])[0] for position in range(4000)]
    shares = torch.bincount(torch.tensor(draws), minlength=4) / len(draws)
    torch.testing.assert_close(shares, row.exp()[0], atol=0.03, rtol=0)


def test_temperature_flattens_as_the_formula_says() -> None:
    row = torch.tensor([[2.0, 1.0, 0.0]])
    draws = [
        sample(row, [SamplingParams(temperature=2.0, seed=3)], [position])[0] for position in range(4000)
    ]
    shares = torch.bincount(torch.tensor(draws), minlength=3) / len(draws)
    torch.testing.assert_close(shares, torch.softmax(row[0] / 2, -1), atol=0.03, rtol=0)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    row = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    drawn = {sample(row, [SamplingParams(top_p=0.75, seed=1)], [position])[0] for position in range(500)}
    assert drawn == {0, 1}


def test_top_p_over_more_tokens_than_are_sorted_at_first() -> None:
    flat = torch.zeros(1, VOCABULARY)
    drawn = {sample(flat, [SamplingParams(top_p=0.9, seed=1)], [position])[0] for position in range(3000)}
    assert 800 < len(drawn) <= 900


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, -(2**63), 12345])
def test_uniform_is_uniform_enough_and_below_one(seed: int) -> None:
    numbers = [uniform(seed, position) for position in range(2000)]
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) == 2000
    assert abs(sum(numbers) / 2000 - 0.5) < 0.03
