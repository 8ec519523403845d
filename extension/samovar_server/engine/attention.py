"""Attention over the slot cache, registered with transformers under the name "samovar".

On a CPU it is ours (see `kernels.attention`): a query's result depends on its own row and position only, to
the bit. A step that is `fused` runs on a GPU and promises no bits: it gives torch's attention a whole piece,
or all that decodes, at once. The queries that share a kv head are its rows or its heads, so that its kernels
for masked attention, which know no grouped heads, read keys and values where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from samovar_server.engine.kernels import attention as kernel
from samovar_server.engine.step import Step, Together

NAME = "samovar"


def register() -> None:
    """Make `attn_implementation="samovar"` known to transformers. It builds no mask for this name."""
    AttentionInterface.register(NAME, attend)


@contextmanager
def by_transformers(model: Any) -> Iterator[None]:
    """While entered, `model` attends as transformers does by itself, over tokens that it is given whole."""
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


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

    query [1, heads, tokens, head_dim] as `slot_step` orders them; key and value [slots, kv_heads, length,
    head_dim] are the cache's buffers. `s_aux` [heads] are sinks: a score of each head that takes its share
    of the weights and gives nothing. Returns [1, tokens, heads, head_dim].
    """
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention with position_bias")
    query = query[0].transpose(0, 1) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    return attend_rows(query, key, value, slot_step, Settings(sliding_window, softcap, s_aux))[None], None


class Settings(NamedTuple):
    """What a layer's attention has beside queries, keys and values."""

    window: int | None
    softcap: float | None
    sinks: Tensor | None

    @property
    def is_plain(self) -> bool:
        """Whether it is attention that torch's own knows."""
        return self.softcap is None and self.sinks is None

    def grouped_sinks(self, kv_heads: int) -> Tensor | None:
        """The sinks as [kv_heads, heads for each, 1]."""
        return None if self.sinks is None else self.sinks.view(kv_heads, -1, 1)


def attend_rows(query: Tensor, key: Tensor, value: Tensor, step: Step, settings: Settings) -> Tensor:
    """query [tokens, heads, head_dim], scaled; key and value as in `attend`; [tokens, heads, head_dim]."""
    step.windows.add(settings.window)
    if not step.fused:
        attended = kernel.attend(query, key, value, step.runs, *settings)
        return attended if attended.dtype == query.dtype else attended.to(query.dtype)
    decoding = step.decoding
    if decoding is not None and not step.pieces:
        assert decoding.together is not None
        return _decode(query, key, value, decoding.together, settings)
    out = query.new_empty(*query.shape[:2], value.shape[-1])
    if decoding is not None:
        assert decoding.together is not None
        out[: step.decoded] = _decode(query[: step.decoded], key, value, decoding.together, settings)
    done = step.decoded
    for piece in step.pieces:
        rows = slice(done, done + len(piece.tokens))
        mask = step.mask(range(piece.start, piece.end), settings.window, query)
        seen = key[piece.slot, :, : piece.end], value[piece.slot, :, : piece.end]
        out[rows] = _attend_piece(query[rows], *seen, mask, settings)
        done = rows.stop
    return out


def _decode(query: Tensor, key: Tensor, value: Tensor, of: Together, settings: Settings) -> Tensor:
    """query [n, heads, head_dim], that of new tokens; returns the like."""
    heads, head_dim = query.shape[1:]
    kv_heads = key.shape[1]
    slots = slice(of.first, of.last)
    if of.rows is not None:
        padded = query.new_zeros(of.last - of.first, heads, head_dim)
        query = padded.index_copy_(0, of.rows, query)
    grouped = query.reshape(-1, kv_heads, heads // kv_heads, head_dim)
    mask = of.mask(settings.window, query)
    seen = key[slots, :, : of.length], value[slots, :, : of.length]
    out = _attend(grouped, *seen, mask, settings, settings.grouped_sinks(kv_heads)).flatten(1, 2)
    return out[: of.queries] if of.rows is None else out[of.rows]


def _attend_piece(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, settings: Settings) -> Tensor:
    """All of a piece in one call: the kv heads are its batch, and the queries' groups its heads."""
    kv_heads = key.shape[0]
    grouped = query.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
    shape = (-1, grouped.shape[1], -1, -1)
    keys, values = key[:, None].expand(shape), value[:, None].expand(shape)
    sinks = settings.grouped_sinks(kv_heads)
    attended = _attend(grouped, keys, values, mask, settings, None if sinks is None else sinks[..., None])
    return attended.permute(2, 0, 1, 3).flatten(1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, settings: Settings, sinks: Tensor | None
) -> Tensor:
    """Attention of four dimensions, by torch's own where it can. `sinks` fit the scores but for the keys."""
    if settings.is_plain:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    scores = query @ key.transpose(2, 3)
    if settings.softcap is not None:
        scores.div_(settings.softcap).tanh_().mul_(settings.softcap)
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights if sinks is None else weights[..., :-1]) @ value
