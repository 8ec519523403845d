"""How probable a model finds the tokens of a text. The state of the token view; free of ipywidgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from samovar.records import TokenScore

CLASSES = ((0.5, "likely"), (0.1, "possible"), (0.01, "unlikely"), (0.0, "surprising"))
"""The least probability of each class, and its name."""


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token as it is shown. `probability` is None for the first, which nothing comes before.

    `likeliest` says what the model would rather have had in its place.
    """

    text: str
    probability: float | None
    kind: str
    words: str
    likeliest: Sequence[str] = ()

    def sentence(self) -> str:
        """All of it."""
        return f"{self.words}. Likeliest here: {', '.join(self.likeliest)}" if self.likeliest else self.words


class ScoreState:
    """A text's tokens with their scores."""

    def __init__(self) -> None:
        self.model = ""
        self._scores: Sequence[TokenScore] = ()

    def set(self, scores: Sequence[TokenScore], model: str) -> None:
        """Note how `model` finds a text."""
        self._scores, self.model = scores, model

    def tokens(self) -> list[ShownToken]:
        """The tokens in their order."""
        return [_shown(score) for score in self._scores]

    def perplexity(self) -> float | None:
        """The exponential of the mean surprise, e^(-mean log-probability); None where nothing is scored."""
        logprobs = [score.logprob for score in self._scores if score.logprob is not None]
        return math.exp(-sum(logprobs) / len(logprobs)) if logprobs else None

    def summary(self) -> str:
        """How many tokens there are, and their perplexity."""
        perplexity = self.perplexity()
        if perplexity is None:
            return f"{len(self._scores)} tokens" if self._scores else ""
        words = f"{len(self._scores)} tokens · perplexity {perplexity:.2f}"
        return f"{words} · {self.model}" if self.model else words


def visible(text: str) -> str:
    """`text` so that its white space can be seen."""
    return text.replace("\n", "⏎\n").replace("\t", "⇥\t")


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else "<0.1%"


def _shown(score: TokenScore) -> ShownToken:
    if score.logprob is None:
        return ShownToken(
            score.text, None, "first", f"{score.text!r}: the first token, which nothing foretells"
        )
    probability = math.exp(score.logprob)
    kind = next(name for least, name in CLASSES if probability >= least)
    likeliest = [f"{text!r} {_percent(math.exp(logprob))}" for text, logprob in score.alternatives]
    return ShownToken(
        score.text, probability, kind, f"{score.text!r}: {_percent(probability)}, {kind}", likeliest
    )
