"""From logits to the next token of each row.

The order is vLLM's: bias, penalties, bans and grammar, temperature, min_p, top_k, top_p. Greedy rows take
the most probable token. Others draw by inverting the cumulative distribution at a number that is a hash of
(seed, position): the same request gets the same draws whatever runs beside it. All arithmetic is per row,
so neighbours change no bit of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from samovar_server.errors import SamovarError
from samovar_server.protocol.sampling import SamplingParams

HEAD = 512
"""Candidates that are sorted first; rarely does top_p need more, and sorting a vocabulary is slow."""

COLDEST = 1e-30
"""The least temperature that is divided by: at a smaller one nothing but the most probable token is left
anyway, and in float32 it would be 0."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Matcher(Protocol):
    """What a grammar allows next, for one sequence.

    `ended` once nothing can follow; `failure` once the grammar cannot be followed any more.
    """

    ended: bool
    failure: SamovarError | None

    def mask(self, logits: Tensor) -> None:
        """Set the logits [vocabulary] of all tokens the grammar does not allow to -inf, in place."""

    def accept(self, token: int) -> None:
        """Go on past `token`."""


class Row(Protocol):
    """What the sampler must know of a sequence."""

    prompt: list[int]
    output: list[int]
    sampling: SamplingParams
    grammar: Matcher | None


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is a pure function of its arguments.

    Two rounds of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    """
    return _splitmix(_splitmix(seed & _MASK) ^ (position & _MASK)) / 2**64 * (1 - 2**-53)


def nth_seed(seed: int, index: int) -> int:
    """The seed of the `index`-th sample (`n`) of a request; the first has the request's own."""
    return seed if index == 0 else _splitmix((seed & _MASK) ^ (index * _GOLDEN & _MASK))


def _splitmix(x: int) -> int:
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """One token id per row of `logits` [rows, vocabulary], which is left as it is.

    They are read at the end, all at once: a GPU would else be waited for in every row.
    """
    chosen = logits.argmax(dim=-1)
    others: dict[int, Tensor] = {}
    for index, row in enumerate(rows):
        adjusted = logits[index]
        if _needs_adjusting(row):
            adjusted = adjust(adjusted, row)
            others[index] = adjusted.argmax()
        if row.sampling.temperature > 0:
            others[index] = _draw(adjusted, row.sampling, uniform(row.sampling.seed, len(row.output)))
    numbers = torch.cat([chosen, torch.stack([*others.values()])]) if others else chosen
    tokens: list[int] = numbers.tolist()
    for index, token in zip(others, tokens[len(rows) :], strict=True):
        tokens[index] = token
    for row, token in zip(rows, tokens, strict=False):
        if row.grammar is not None:
            row.grammar.accept(token)
    return tokens[: len(rows)]


def _needs_adjusting(row: Row) -> bool:
    params = row.sampling
    return bool(
        params.logit_bias
        or params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1
        or len(row.output) < params.min_tokens
        or row.grammar is not None
    )


def adjust(logits: Tensor, row: Row) -> Tensor:
    """A copy of `logits` [vocabulary] after bias, penalties, bans and grammar.

    presence and frequency: https://platform.openai.com/docs/guides/text-generation (over the output);
    repetition: Keskar et al., CTRL, 2019, section 4.1 (over prompt and output).
    """
    params = row.sampling
    logits = logits.float().clone()
    if params.logit_bias:
        tokens, biases = zip(*params.logit_bias, strict=True)
        logits.index_add_(0, _ids(tokens, logits), torch.tensor(biases, device=logits.device))
    if params.repetition_penalty != 1:
        seen = _ids(set(row.prompt) | set(row.output), logits)
        values = logits[seen]
        scale = params.repetition_penalty
        logits[seen] = torch.where(values > 0, values / scale, values * scale)
    if row.output and (params.presence_penalty or params.frequency_penalty):
        counts = Counter(row.output)
        penalties = torch.tensor(
            [params.frequency_penalty * count + params.presence_penalty for count in counts.values()],
            device=logits.device,
        )
        logits[_ids(counts, logits)] -= penalties
    if len(row.output) < params.min_tokens and params.stop_tokens:
        logits[_ids(params.stop_tokens, logits)] = float("-inf")
    if row.grammar is not None:
        row.grammar.mask(logits)
    return logits


def _ids(tokens: Iterable[int], like: Tensor) -> Tensor:
    return torch.tensor(list(tokens), device=like.device)


def _draw(logits: Tensor, params: SamplingParams, u: float) -> Tensor:
    """Invert the cumulative distribution of one row at `u`; a token's id."""
    scaled = logits.float()
    # Subtracting the maximum first keeps a tiny temperature from overflowing.
    probabilities = torch.softmax((scaled - scaled.max()) / max(params.temperature, COLDEST), dim=-1)
    if params.min_p > 0:  # Nguyen et al., Turning Up the Heat: Min-p Sampling, 2024
        probabilities = probabilities.masked_fill(probabilities < params.min_p * probabilities.max(), 0)
    if params.top_k == 0 and params.top_p >= 1:
        return _invert(probabilities, u)
    candidates, ids = _most_probable(probabilities, params.top_k, params.top_p)
    return ids.take(_invert(candidates, u))


def _most_probable(probabilities: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """The `top_k` most probable tokens, of those the fewest that reach `top_p` of their sum; and their ids.

    Those beyond have the weight 0.

    top_p: Holtzman et al., The Curious Case of Neural Text Degeneration, 2020.
    """
    size = probabilities.shape[-1]
    limit = min(top_k, size) if top_k else size
    head = min(max(HEAD, top_k), size)
    values, ids = probabilities.topk(head, sorted=True)
    if limit > head and bool(values.double().sum() < top_p * probabilities.double().sum()):
        values, ids = probabilities.sort(descending=True, stable=True)
    values, ids = values[:limit], ids[:limit]
    if top_p >= 1:
        return values, ids
    whole = (values if top_k else probabilities).double().sum()
    before = values.double().cumsum(-1) - values.double()
    keep = before < top_p * whole
    keep[0] = True  # the product of a tiny top_p may be 0
    return values.masked_fill(~keep, 0), ids


def _invert(weights: Tensor, u: float) -> Tensor:
    """The first index whose cumulative weight exceeds `u` of the whole."""
    cumulative = weights.double().cumsum(-1)
    whole = cumulative[-1]
    # Below the whole even where the product is rounded up to it: behind the last weight there may be zeros.
    target = torch.minimum(u * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[-1] - 1)
