"""Choosing tokens: the published rules, the same draw for the same request, no influence of neighbours."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from samovar_server.engine import sampler
from samovar_server.engine.sampler import Matcher, adjust, nth_seed, uniform
from samovar_server.protocol.sampling import SamplingParams

VOCABULARY = 1000


@dataclass
class Row:
    sampling: SamplingParams
    prompt: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    grammar: Matcher | None = None


def sample(logits: torch.Tensor, params: Seq[SamplingParams], positions: Seq[int]) -> list[int]:
    rows = [Row(param, output=[0] * position) for param, position in zip(params, positions, strict=True)]
    return sampler.sample(logits, rows)


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def test_temperature_zero_takes_the_most_probable() -> None:
    rows = logits(4)
    assert sample(rows, [SamplingParams(temperature=0)] * 4, [0] * 4) == rows.argmax(-1).tolist()


def test_a_tiny_temperature_is_greedy_and_a_tiny_top_p_too() -> None:
    rows = logits(2)
    params = [SamplingParams(temperature=1e-6, seed=1), SamplingParams(top_p=1e-9, seed=2)]
    assert sample(rows, params, [5, 6]) == rows.argmax(-1).tolist()


@pytest.mark.parametrize("top_k", [0, 2, 900])
def test_the_smallest_numbers_there_are_leave_the_most_probable(top_k: int) -> None:
    rows = logits(1)
    for params in (
        SamplingParams(temperature=5e-324, top_k=top_k),
        SamplingParams(temperature=1e-40, top_k=top_k),
        SamplingParams(top_p=5e-324, top_k=top_k),
        SamplingParams(min_p=1.0, top_k=top_k),
    ):
        assert [sample(rows, [params], [n]) for n in range(5)] == [rows.argmax(-1).tolist()] * 5, params


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


def test_the_samples_of_one_request_have_seeds_of_their_own() -> None:
    seeds = [nth_seed(seed, index) for seed in (1, 2, 3) for index in range(50)]
    assert seeds[0] == 1
    assert len(set(seeds)) == len(seeds)


def test_presence_and_frequency_follow_openai_and_count_the_output_only() -> None:
    row = Row(SamplingParams(presence_penalty=0.5, frequency_penalty=0.25), prompt=[1, 1], output=[2, 3, 3])
    changed = adjust(torch.ones(6), row)
    expected = torch.tensor([1, 1, 1 - 0.25 - 0.5, 1 - 0.5 - 0.5, 1, 1])
    torch.testing.assert_close(changed, expected)


def test_repetition_penalty_is_transformers_own() -> None:
    row = Row(SamplingParams(repetition_penalty=1.3), prompt=[5, 9, 9], output=[7])
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[5, 9, 9, 7]]), logits(1))
    torch.testing.assert_close(adjust(logits(1)[0], row), theirs[0])


def test_bias_and_bans() -> None:
    row = Row(SamplingParams(logit_bias=((3, 100.0), (4, -100.0)), min_tokens=1, stop_tokens=frozenset({3})))
    changed = adjust(torch.zeros(6), row)
    assert changed.tolist() == [0, 0, 0, float("-inf"), -100, 0]
    row.output.append(0)
    assert adjust(torch.zeros(6), row)[3] == 100


def test_the_logits_themselves_stay_as_they_are() -> None:
    rows, before = logits(1), logits(1)
    sampler.sample(rows, [Row(SamplingParams(repetition_penalty=2.0, temperature=0.5), prompt=[1, 2])])
    assert torch.equal(rows, before)


@pytest.mark.parametrize(
    ("params", "warpers"),
    [
        (SamplingParams(top_k=5, seed=1), [TopKLogitsWarper(5)]),
        (SamplingParams(top_k=600, top_p=0.999, seed=1), [TopKLogitsWarper(600), TopPLogitsWarper(0.999)]),
        (SamplingParams(top_p=0.6, seed=1), [TopPLogitsWarper(0.6)]),
        (SamplingParams(min_p=0.1, seed=1), [MinPLogitsWarper(0.1)]),
        (SamplingParams(top_k=8, top_p=0.7, seed=1), [TopKLogitsWarper(8), TopPLogitsWarper(0.7)]),
    ],
)
def test_draws_come_from_the_distribution_of_transformers_warpers(
    params: SamplingParams, warpers: list[Any]
) -> None:
    row = logits(1, seed=3)
    warped = row
    for warper in warpers:
        warped = warper(None, warped)
    theirs = torch.softmax(warped[0], -1)
    draws = torch.tensor([sample(row, [params], [position])[0] for position in range(1500)])
    shares = torch.bincount(draws, minlength=VOCABULARY) / len(draws)
    assert float(shares[theirs == 0].sum()) == 0
    assert float((shares - theirs).abs().max()) < 0.05


def test_a_grammar_masks_its_own_row_and_is_told_the_token() -> None:
    class Only:
        def __init__(self, token: int) -> None:
            self.token = token
            self.accepted: list[int] = []

        def mask(self, logits: torch.Tensor) -> None:
            kept = logits[self.token].clone()
            logits.fill_(float("-inf"))
            logits[self.token] = kept

        def accept(self, token: int) -> None:
            self.accepted.append(token)

    rows, grammar = logits(2), Only(17)
    greedy = SamplingParams(temperature=0)
    tokens = sampler.sample(rows, [Row(greedy, grammar=grammar), Row(greedy)])
    assert tokens == [17, int(rows[1].argmax())]
    assert grammar.accepted == [17]
