"""Attention over the slot cache, registered with transformers under the name "samovar".

A query's result depends on its own row and position only, to the bit: decode is a grouped matrix product
in which every (row, kv head) is a product of its own, and masked keys add exact zeros; prefill works in
the blocks of a fixed grid (`grid`), so that the shapes are the same however a prompt is cut into chunks.
(Over a whole prompt, torch's CPU flash kernel splits rows between threads and gives the second thread's
other bits; over a block it is given the same work each time.)

A step that is `fused` promises no bits: it gives torch's attention a whole piece, or all that decodes, at
once. The queries that share a kv head are its rows or its heads, so that its kernels for masked attention,
which know no grouped heads, read keys and values where they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from samovar_server.engine.grid import block_end
from samovar_server.engine.step import Decoding, Piece, Step

NAME = "samovar"


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


def attend_rows(query: Tensor, key: Tensor, value: Tensor, step: Step, settings: Settings) -> Tensor:
    """query [tokens, heads, head_dim], scaled; key and value as in `attend`; [tokens, heads, head_dim]."""
    done = step.decoded
    if step.decoding is not None:
        decoded = _decode(query[:done], key, value, step.decoding, settings, fused=step.fused)
        if not step.pieces:
            return decoded
    out = query.new_empty(*query.shape[:2], value.shape[-1])
    if step.decoding is not None:
        out[:done] = decoded
    for piece in step.pieces:
        rows = slice(done, done + len(piece.tokens))
        _prefill(query[rows], key[piece.slot], value[piece.slot], step, piece, settings, out[rows])
        done = rows.stop
    return out


def _decode(
    query: Tensor, key: Tensor, value: Tensor, decoding: Decoding, settings: Settings, *, fused: bool
) -> Tensor:
    """query [n, heads, head_dim], one for each decoding slot; returns the like."""
    heads, head_dim = query.shape[1:]
    kv_heads = key.shape[1]
    slots = slice(decoding.first, decoding.last)
    if decoding.rows is not None:
        padded = query.new_zeros(decoding.last - decoding.first, heads, head_dim)
        query = padded.index_copy_(0, decoding.rows, query)
    grouped = query.reshape(-1, heads // kv_heads, head_dim)
    seen_keys, seen_values = key[slots, :, : decoding.length], value[slots, :, : decoding.length]
    if fused and settings.is_plain:
        mask = decoding.mask(settings.window, query, 1)[:, :, None]
        grouped = grouped.unflatten(0, (-1, kv_heads))
        out = scaled_dot_product_attention(grouped, seen_keys, seen_values, attn_mask=mask, scale=1.0)
    else:
        mask = decoding.mask(settings.window, query, kv_heads)
        sinks = settings.sinks
        if sinks is not None:
            sinks = sinks.view(kv_heads, -1).repeat(len(seen_keys), 1)[:, :, None]
        out = _weighted(grouped, seen_keys.flatten(0, 1), seen_values.flatten(0, 1), mask, settings, sinks)
    out = out.view(-1, heads, value.shape[-1])
    return out if decoding.rows is None else out[decoding.rows]


def _prefill(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    step: Step,
    piece: Piece,
    settings: Settings,
    out: Tensor,
) -> None:
    """query and out [n, heads, head_dim], out being filled; key and value [kv_heads, length, head_dim]."""
    if step.fused and settings.is_plain:
        mask = step.mask(piece.start, piece.end, settings.window, query)
        out.copy_(_attend_piece(query, key[:, : piece.end], value[:, : piece.end], mask))
        return
    start = piece.start
    while start < piece.end:
        end = min(block_end(start), piece.end)
        block = slice(start - piece.start, end - piece.start)
        mask = step.mask(start, end, settings.window, query)
        out[block] = _attend_block(query[block], key[:, :end], value[:, :end], mask, settings)
        start = end


def _attend_piece(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """As `_attend_block`, in one call: the kv heads are its batch, and the queries' groups its heads."""
    kv_heads = key.shape[0]
    grouped = query.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
    shape = (-1, grouped.shape[1], -1, -1)
    keys, values = key[:, None].expand(shape), value[:, None].expand(shape)
    attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=1.0)
    return attended.permute(2, 0, 1, 3).flatten(1, 2)


def _attend_block(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, settings: Settings) -> Tensor:
    """query [n, heads, head_dim]; key and value [kv_heads, length, head_dim]; mask [n, length]."""
    n, heads, head_dim = query.shape
    kv_heads = key.shape[0]
    query = query.transpose(0, 1)
    if settings.is_plain:
        attended = scaled_dot_product_attention(
            query[None], key[None], value[None], attn_mask=mask, scale=1.0, enable_gqa=heads != kv_heads
        )[0]
    else:
        group = heads // kv_heads
        sinks = settings.sinks
        if sinks is not None:
            sinks = sinks.repeat_interleave(n).view(kv_heads, -1, 1)
        grouped = query.reshape(kv_heads, group * n, head_dim)
        attended = _weighted(grouped, key, value, mask.repeat(group, 1), settings, sinks)
    return attended.reshape(heads, n, -1).transpose(0, 1)


def _weighted(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, settings: Settings, sinks: Tensor | None
) -> Tensor:
    """query [b, n, head_dim], key and value [b, length, head_dim], mask [b or 1, n or 1, length].

    `sinks` are [b, n or 1, 1], or [1, n, 1].
    """
    if settings.softcap is None:
        scores = torch.baddbmm(mask, query, key.transpose(1, 2))
    else:
        scores = torch.bmm(query, key.transpose(1, 2)).div_(settings.softcap).tanh_().mul_(settings.softcap)
        scores.add_(mask)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return torch.bmm(weights if sinks is None else weights[..., :-1], value)
