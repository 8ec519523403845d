"""From logits to the next token of each row.

Greedy rows take the most probable token. Others draw by inverting the cumulative distribution at a number
that is a hash of (seed, position): the same request gets the same draws whatever runs beside it. All
arithmetic is per row, so neighbours change no bit of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samovar_server.protocol.sampling import SamplingParams

HEAD = 512
"""Candidates that are sorted first; rarely does top_p need more, and sorting a vocabulary is slow."""

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is a pure function of its arguments.

    Two rounds of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    """
    return _splitmix(_splitmix(seed & _MASK) ^ (position & _MASK)) / 2**64 * (1 - 2**-53)


def _splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def sample(logits: Tensor, params: Sequence[SamplingParams], positions: Sequence[int]) -> list[int]:
    """One token id per row of `logits` [rows, vocabulary]; `positions` count output tokens from 0."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for row, (param, position) in enumerate(zip(params, positions, strict=True)):
        if param.temperature > 0:
            tokens[row] = _draw(logits[row], param, uniform(param.seed, position))
    return tokens


def _draw(logits: Tensor, params: SamplingParams, u: float) -> int:
    """Invert the cumulative distribution of one row at `u`."""
    scaled = logits.float()
    # Subtracting the maximum first keeps a tiny temperature from overflowing.
    probabilities = torch.softmax((scaled - scaled.max()) / params.temperature, dim=-1)
    if params.top_p >= 1:
        return _invert(probabilities, u)
    candidates, ids = _nucleus(probabilities, params.top_p)
    return int(ids[_invert(candidates, u)])


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The most probable tokens whose sum first reaches `top_p` (Holtzman et al., 2020), and their ids."""
    head = min(HEAD, probabilities.shape[-1])
    values, ids = probabilities.topk(head, sorted=True)
    before = values.double().cumsum(-1) - values.double()
    if float(before[-1]) + float(values[-1]) < top_p and head < probabilities.shape[-1]:
        values, ids = probabilities.sort(descending=True, stable=True)
        before = values.double().cumsum(-1) - values.double()
    keep = before < top_p
    return values[keep], ids[keep]


def _invert(weights: Tensor, u: float) -> int:
    """The first index whose cumulative weight exceeds `u` of the whole."""
    cumulative = weights.double().cumsum(-1)
    index = int(torch.searchsorted(cumulative, u * float(cumulative[-1]), right=True))
    return min(index, weights.shape[-1] - 1)
