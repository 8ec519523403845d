"""How the next token is chosen, as the engine sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """One request's rules for choosing tokens; the defaults sample the model's distribution as it is.

    `temperature` 0 is greedy. `top_k` 0 and `min_p` 0 keep all tokens. Draws are a pure function of
    (`seed`, position in the output). `logit_bias` holds (token, bias) pairs. `stop_tokens` end the text;
    they cannot be drawn before `min_tokens` tokens are out.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_tokens: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token, its log-probability under the model, its rank (1 is the most probable), and the `top` ones.

    Of the model's own distribution: before penalties, bias, temperature and all else.
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()
