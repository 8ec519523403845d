"""Attention over the slot cache, registered with transformers under the name "samovar".

A query's result depends on its own row and position only, to the bit: decode is a grouped matrix product
in which every (row, kv head) is a product of its own, and masked keys add exact zeros; prefill works in
blocks of `QUERY_BLOCK` queries on a fixed grid, so that the shapes are the same however a prompt is cut
into chunks. (torch's CPU flash kernel splits rows between threads and gives the second thread's rows
other bits.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from samovar_server.engine.step import DecodeStep, PrefillStep, Step

NAME = "samovar"
QUERY_BLOCK = 32
"""Queries that prefill attends with at a time; chunks and reused prefixes end on multiples of it."""


def register() -> None:
    """Make `attn_implementation="samovar"` known to transformers. It builds no mask for this name."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    slot_step: Step,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    query [batch, heads, new, head_dim]; key and value [batch, kv_heads, seen, head_dim] are what the
    cache gave back. `s_aux` [heads] are sinks: a score of each head that takes its share of the weights
    and gives nothing. Returns [batch, new, heads, head_dim].
    """
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention with position_bias")
    batch, heads, _, head_dim = query.shape
    kv_heads = key.shape[1]
    query = query * (scaling if scaling is not None else head_dim**-0.5)
    if isinstance(slot_step, DecodeStep):
        grouped = query.reshape(batch, kv_heads, heads // kv_heads, head_dim)
        sinks = None if s_aux is None else s_aux.view(kv_heads, -1, 1)
        out = _weighted(grouped, key, value, slot_step.mask(sliding_window, query), softcap, sinks)
        return out.reshape(batch, 1, heads, value.shape[-1]), None
    return _prefill(query[0], key[0], value[0], slot_step, sliding_window, softcap, s_aux), None


def _prefill(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    step: PrefillStep,
    window: int | None,
    softcap: float | None,
    s_aux: Tensor | None,
) -> Tensor:
    heads, new, head_dim = query.shape
    kv_heads = key.shape[0]
    group = heads // kv_heads
    out = query.new_empty(1, new, heads, value.shape[-1])
    for start in range(step.start, step.end, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, step.end)
        block = query[:, start - step.start : end - step.start]
        grouped = block.reshape(kv_heads, group * (end - start), head_dim)
        mask = step.mask(start, end, window, query).repeat(group, 1)
        sinks = None if s_aux is None else s_aux.repeat_interleave(end - start).view(kv_heads, -1, 1)
        attended = _weighted(grouped, key[:, :end], value[:, :end], mask, softcap, sinks)
        out[0, start - step.start : end - step.start] = attended.view(heads, end - start, -1).transpose(0, 1)
    return out


def _weighted(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    scores = torch.matmul(query, key.transpose(-1, -2))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores.add_(mask)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(weights if sinks is None else weights[..., :-1], value)
