import math

import pytest

from samovar.records import TokenScore
from samovar.widgets.scores import ScoreState, visible
from tests.fakes.fake_workbench import LOGPROBS


def state() -> ScoreState:
    scores = ScoreState()
    scores.set(TokenScore.from_logprobs(LOGPROBS), "org/m")
    return scores


def test_tokens_are_classed_by_their_probability() -> None:
    tokens = state().tokens()
    assert [token.kind for token in tokens] == ["first", "possible", "likely", "surprising"]
    assert [token.probability for token in tokens] == [
        None,
        *(pytest.approx(probability) for probability in (0.25, 0.5, 0.002)),
    ]
    assert tokens[3].sentence() == "' green': 0.2%, surprising. Likeliest here: ' blue' 90.0%"
    assert tokens[0].sentence() == "'The': the first token, which nothing foretells"


def test_perplexity_is_of_the_scored_tokens() -> None:
    expected = (0.25 * 0.5 * 0.002) ** (-1 / 3)
    assert state().perplexity() == pytest.approx(expected)
    assert state().summary() == f"4 tokens · perplexity {expected:.2f} · org/m"


def test_one_token_has_no_perplexity() -> None:
    scores = ScoreState()
    scores.set([TokenScore("The", None)], "")
    assert scores.perplexity() is None
    assert scores.summary() == "1 tokens"


def test_a_certain_token_is_likely() -> None:
    scores = ScoreState()
    scores.set([TokenScore("x", 0.0), TokenScore("y", -math.inf)], "")
    assert [token.kind for token in scores.tokens()] == ["likely", "surprising"]
    assert scores.tokens()[1].sentence() == "'y': <0.1%, surprising"


def test_white_space_can_be_seen() -> None:
    assert visible("a\n\tb") == "a⏎\n⇥\tb"
