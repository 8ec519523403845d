"""Drafts: what has stood in a text before, how likely it is to come again, how much of it is worth a try."""

from __future__ import annotations

import random

import pytest

from samovar_server.engine.draft import EXPECTED, LONGEST_MATCH, MOST, Draft, Drafter, worthwhile
from samovar_server.engine.row_cost import RowCost


def brute_force(tokens: list[int]) -> tuple[int, int]:
    """The longest run at the end that has stood before, as far as it counts; where the last such ended."""
    for length in range(min(LONGEST_MATCH, len(tokens) - 1), 0, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[-length:]:
                return length, end
    return 0, 0


@pytest.mark.parametrize("seed", range(30))
def test_a_draft_is_what_followed_the_longest_match_that_came_last(seed: int) -> None:
    rng = random.Random(seed)
    text = [rng.randrange(rng.choice([2, 5, 20])) for _ in range(60)]
    cut = rng.randrange(1, 30)
    drafter = Drafter(text[:cut])
    for end in range(cut, 60, rng.randrange(1, 4)):
        length, begin = brute_force(text[:end])
        most = rng.randrange(10)
        draft = drafter.draft(text[cut:end], most)
        assert list(draft.tokens) == (text[begin:end][: min(most, MOST)] if length else [])
        assert len(draft.odds) == len(draft.tokens)
        if draft.odds:
            assert draft.odds[0] == pytest.approx(EXPECTED[length - 1])
            assert list(draft.odds) == sorted(draft.odds, reverse=True)


def test_the_odds_follow_what_drafts_have_been_worth() -> None:
    drafter = Drafter([1, 2, 3, 1])
    before = drafter.draft([], 3)
    for _ in range(50):
        drafter.draft([], 3)
        drafter.learn(3, 0)
    assert drafter.draft([], 3).odds[0] < 0.2 * before.odds[0]
    for _ in range(200):
        drafter.draft([], 3)
        drafter.learn(3, 3)
    assert drafter.draft([], 3).odds[-1] > 0.9


def test_nothing_is_learned_of_tokens_behind_a_wrong_one() -> None:
    drafter = Drafter([1, 2, 3, 1])
    before = drafter.draft([], 3)
    drafter.learn(3, 0)
    after = drafter.draft([], 3)
    assert after.odds[0] < before.odds[0]
    assert after.odds[1] / after.odds[0] == pytest.approx(before.odds[1] / before.odds[0])


def cost(step: float, row: float, sequences: int) -> RowCost:
    """That of a machine on which steps with so many sequences have shown these costs, for long."""
    followed = RowCost()
    for index in range(500):
        drafted = index % 4
        followed = followed.after(sequences, drafted, step + row * (sequences + drafted))
    return followed


def test_where_rows_are_cheap_whole_drafts_are_tried_and_where_they_are_dear_none() -> None:
    drafts = [Draft([1, 2, 3], [0.5, 0.3, 0.1]), Draft([], []), Draft([4], [0.2])]
    assert worthwhile(drafts, cost(0.03, 0.0005, 3)) == [3, 0, 1]
    assert worthwhile(drafts, cost(0.0001, 0.01, 3)) == [0, 0, 0]


@pytest.mark.parametrize("seed", range(50))
def test_no_other_choice_is_expected_to_be_faster(seed: int) -> None:
    rng = random.Random(seed)
    drafts = []
    for _ in range(rng.randrange(1, 4)):
        odds, left = [], 1.0
        for _ in range(rng.randrange(4)):
            left *= rng.random()
            odds.append(left)
        drafts.append(Draft([0] * len(odds), odds))
    followed = cost(rng.uniform(0.001, 0.05), rng.uniform(0.0001, 0.01), len(drafts))

    def speed(taken: tuple[int, ...]) -> float:
        tokens = len(drafts) + sum(sum(d.odds[:n]) for d, n in zip(drafts, taken, strict=True))
        return tokens / followed.step(len(drafts) + sum(taken))

    choices: list[tuple[int, ...]] = [()]
    for draft in drafts:
        choices = [(*choice, n) for choice in choices for n in range(len(draft.odds) + 1)]
    assert speed(tuple(worthwhile(drafts, followed))) == pytest.approx(max(map(speed, choices)))
