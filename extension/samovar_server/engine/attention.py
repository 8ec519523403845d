"""Attention over the slot cache, registered with transformers under the name "samovar".

A query's result depends on its own row and position only, to the bit: masked keys add exact zeros. Decode
is a grouped matrix product in which every (row, kv head) is a product of its own; as many keys and values
are read for all as the longest row has, and taken in blocks of a fixed grid (`grid`), since MKL splits the
sums of longer products at places that depend on their length. Prefill works in the tiles of a fixed grid
(`grid`): a tile is always filled up to its width, so that the shapes of its products, and a query's place
in them, are the same however a prompt is cut into chunks. (torch's CPU flash kernel splits rows between
threads and gives the second thread's other bits.)

A step that is `fused` promises no bits: it gives torch's attention a whole piece, or all that decodes, at
once. The queries that share a kv head are its rows or its heads, so that its kernels for masked attention,
which know no grouped heads, read keys and values where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from samovar_server.engine.grid import decode_blocks, tile
from samovar_server.engine.step import Piece, Round, Step

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


def attend_rows(query: Tensor, key: Tensor, value: Tensor, step: Step, settings: Settings) -> Tensor:
    """query [tokens, heads, head_dim], scaled; key and value as in `attend`; [tokens, heads, head_dim]."""
    rounds = () if step.decoding is None else step.decoding.rounds
    if len(rounds) == 1 and not step.pieces:
        return _decode(query, key, value, rounds[0], settings, fused=step.fused)
    out = query.new_empty(*query.shape[:2], value.shape[-1])
    done = 0
    for each in rounds:
        rows = slice(done, done + each.queries)
        out[rows] = _decode(query[rows], key, value, each, settings, fused=step.fused)
        done = rows.stop
    for piece in step.pieces:
        rows = slice(done, done + len(piece.tokens))
        _prefill(query[rows], key[piece.slot], value[piece.slot], step, piece, settings, out[rows])
        done = rows.stop
    return out


def _decode(
    query: Tensor, key: Tensor, value: Tensor, of: Round, settings: Settings, *, fused: bool
) -> Tensor:
    """query [n, heads, head_dim], those of a round; returns the like."""
    heads, head_dim = query.shape[1:]
    kv_heads = key.shape[1]
    slots = slice(of.first, of.last)
    if of.rows is not None:
        padded = query.new_zeros(of.last - of.first, heads, head_dim)
        query = padded.index_copy_(0, of.rows, query)
    grouped = query.reshape(-1, heads // kv_heads, head_dim)
    seen_keys, seen_values = key[slots, :, : of.length], value[slots, :, : of.length]
    if fused and settings.is_plain:
        mask = of.mask(settings.window, query, 1)[:, :, None]
        grouped = grouped.unflatten(0, (-1, kv_heads))
        out = scaled_dot_product_attention(grouped, seen_keys, seen_values, attn_mask=mask, scale=1.0)
    else:
        mask = of.mask(settings.window, query, kv_heads)
        seen_keys, seen_values = seen_keys.flatten(0, 1), seen_values.flatten(0, 1)
        if len(grouped) == 1:  # MKL would split a product that is alone among its threads, with other bits
            grouped, mask = grouped.expand(2, -1, -1), mask.expand(2, -1, -1)
            seen_keys, seen_values = seen_keys.expand(2, -1, -1), seen_values.expand(2, -1, -1)
        blocks = decode_blocks(of.length)
        parts = []
        for block in blocks:
            keys, hidden = seen_keys[:, block], mask[..., block]
            if settings.softcap is None:
                parts.append(torch.baddbmm(hidden, grouped, keys.transpose(1, 2)))
            else:
                parts.append(_scores(grouped, keys, settings).add_(hidden))
        scores = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        sinks = settings.sinks
        if sinks is not None:
            sinks = sinks.view(kv_heads, -1).repeat(of.last - of.first, 1)[:, :, None]
        weights = _weights(scores, seen_values.dtype, sinks)
        out = torch.bmm(weights[..., blocks[0]], seen_values[:, blocks[0]])
        for block in blocks[1:]:
            out.add_(torch.bmm(weights[..., block], seen_values[:, block]))
    out = out.view(-1, heads, value.shape[-1])
    return out[: of.queries] if of.rows is None else out[of.rows]


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
        mask = step.mask(range(piece.start, piece.end), range(piece.end), settings.window, query)
        out.copy_(_attend_piece(query, key[:, : piece.end], value[:, : piece.end], mask))
        return
    start = piece.start
    while start < piece.end:
        together = tile(start)
        end = min(together.stop, piece.end)
        rows = slice(start - piece.start, end - piece.start)
        _attend_tile(query[rows], key, value, step, start, together, settings, out[rows])
        start = end


def _attend_piece(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """All of a piece in one call: the kv heads are its batch, and the queries' groups its heads."""
    kv_heads = key.shape[0]
    grouped = query.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
    shape = (-1, grouped.shape[1], -1, -1)
    keys, values = key[:, None].expand(shape), value[:, None].expand(shape)
    attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=1.0)
    return attended.permute(2, 0, 1, 3).flatten(1, 2)


def _attend_tile(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    step: Step,
    start: int,
    together: range,
    settings: Settings,
    out: Tensor,
) -> None:
    """As `_prefill`, for queries from `start` on, of those that are attended with `together`."""
    kv_heads, length, head_dim = key.shape
    split = query.unflatten(1, (kv_heads, -1)).transpose(0, 1)
    n, group = len(together), split.shape[2]
    mine = slice(start - together.start, start - together.start + len(query))
    grouped = query.new_zeros(kv_heads, n, group, head_dim)
    grouped[:, mine] = split
    # All queries see all keys before the tile, but for a window.
    first, masked = 0, together.start
    if settings.window is not None:
        first = masked = max(together.start + 1 - settings.window, 0)
    last = min(together.stop, length)
    mask = step.mask(together, range(masked, last), settings.window, query)
    scores = _scores(grouped.flatten(1, 2), key[:, first:last], settings)
    scores[..., masked - first :].unflatten(1, (n, group)).add_(mask[:, None])
    sinks = settings.sinks
    if sinks is not None:
        sinks = sinks.view(kv_heads, -1).repeat(1, n)[..., None]
    attended = torch.bmm(_weights(scores, value.dtype, sinks), value[:, first:last]).unflatten(1, (n, group))
    out.unflatten(1, (kv_heads, -1)).copy_(attended[:, mine].transpose(0, 1))


def _scores(query: Tensor, key: Tensor, settings: Settings) -> Tensor:
    """query [b, n, head_dim] and key [b, length, head_dim] -> [b, n, length]."""
    scores = torch.bmm(query, key.transpose(1, 2))
    if settings.softcap is not None:
        scores.div_(settings.softcap).tanh_().mul_(settings.softcap)
    return scores


def _weights(scores: Tensor, dtype: torch.dtype, sinks: Tensor | None) -> Tensor:
    """scores [b, n, length] and sinks [b, n or 1, 1] -> values' weights [b, n, length] of this dtype."""
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(dtype)
    return weights if sinks is None else weights[..., :-1]
