"""Log-probabilities of tokens under the model, before anything changes its distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samovar_server.protocol.sampling import TokenScore

ROWS_AT_ONCE = 64
"""Prompt positions whose whole vocabulary is normalised at a time, to bound memory."""


def score(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Scores of `tokens` [n] by `logits` [n, vocabulary], with the `top` most probable alternatives."""
    scores: list[TokenScore] = []
    for start in range(0, len(tokens), ROWS_AT_ONCE):
        part = tokens[start : start + ROWS_AT_ONCE]
        scores += _score(logits[start : start + ROWS_AT_ONCE], part, top)
    return scores


def _score(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenScore]:
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])
    ranks = (logprobs > chosen).sum(-1) + 1
    values, ids = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1) if top else (logprobs[:, :0],) * 2
    return [
        TokenScore(token, logprob, rank, tuple(zip(map(int, row_ids), row_values, strict=True)))
        for token, logprob, rank, row_ids, row_values in zip(
            tokens, chosen[:, 0].tolist(), ranks.tolist(), ids.tolist(), values.tolist(), strict=True
        )
    ]
