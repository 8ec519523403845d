"""Kernels of a layer's small work: what torch and transformers give, and a row's bits whoever else runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from samovar_server.engine.kernels.rowwise import rms_norm, silu_gated, turn_and_keep
from samovar_server.engine.kv_cache import SlotCache
from samovar_server.engine.step import Decoding, Piece, Step

ROWS = (1, 2, 3, 16, 17, 100)


@pytest.mark.parametrize("size", [576, 36, 7])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_norm_is_transformers_norm_whoever_else_runs(scale: float, size: int) -> None:
    source = torch.Generator().manual_seed(0)
    module = LlamaRMSNorm(size, eps=1e-5)
    module.weight.data.copy_(torch.randn(size, generator=source))
    x = torch.randn(300, size, generator=source) * scale
    with torch.inference_mode():
        whole = rms_norm(x, module.weight, module.variance_epsilon)
        torch.testing.assert_close(whole, module(x))
        for rows in ROWS:
            assert torch.equal(rms_norm(x[:rows], module.weight, module.variance_epsilon), whole[:rows])


@pytest.mark.parametrize("size", [1536, 20, 3])
def test_the_gate_is_torchs_silu_however_large_its_input(size: int) -> None:
    x = torch.randn(300, 2 * size, generator=torch.Generator().manual_seed(0)) * 30
    x[0, :3] = torch.tensor([1e4, -1e4, float("nan")])
    whole = silu_gated(x)
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(whole, functional.silu(gate) * up, equal_nan=True)
    for rows in ROWS:
        torch.testing.assert_close(silu_gated(x[:rows]), whole[:rows], rtol=0, atol=0, equal_nan=True)


def step_of(slots: list[int], positions: list[int], piece: Piece) -> Step:
    return Step(Decoding(torch.tensor(slots), torch.tensor(positions)), [piece])


@pytest.mark.parametrize("size", [64, 12, 6])
def test_heads_are_turned_as_transformers_turns_them_and_kept_where_they_belong(size: int) -> None:
    source = torch.Generator().manual_seed(0)
    step = step_of([2, 0], [5, 40], Piece(1, [0] * 30, 7))
    tokens, queries, kv_heads = 32, 4, 2
    heads = torch.randn(tokens, queries + 2 * kv_heads, size, generator=source)
    angles = torch.randn(1, tokens, size // 2, generator=source).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    query, key, value = (part.transpose(0, 1)[None] for part in heads.split([queries, kv_heads, kv_heads], 1))
    expected_query, expected_key = apply_rotary_pos_emb(query, key, cos, sin)
    cache = SlotCache(1, 4, 64)
    layer = cache.layers[0]
    got = turn_and_keep(heads.clone(), queries, cos[0], sin[0], 0.3, step, layer)
    torch.testing.assert_close(got, expected_query[0].transpose(0, 1) * 0.3)
    places = [(2, 5), (0, 40), *((1, position) for position in range(7, 37))]
    for states, kept in ((expected_key, layer.keys), (value, layer.values)):
        at = torch.stack([kept[slot, :, position] for slot, position in places])
        torch.testing.assert_close(at, states[0].transpose(0, 1))
        written = torch.zeros(kept.shape[0], kept.shape[2], dtype=torch.bool)
        for place in places:
            written[place] = True
        assert not kept.transpose(1, 2)[~written].any(), "written where nothing belongs"


def test_a_token_is_turned_to_the_same_bits_alone_and_among_others() -> None:
    source = torch.Generator().manual_seed(0)
    heads = torch.randn(300, 5, 64, generator=source)
    cos, sin = torch.randn(2, 300, 64, generator=source)

    def turned(rows: slice) -> Tensor:
        count = len(heads[rows])
        step = Step(None, [Piece(0, [0] * count, 0)])
        cache = SlotCache(1, 4, 512)
        cache.reserve([(0, count)])
        layer = cache.layers[0]
        query = turn_and_keep(heads[rows].clone(), 3, cos[rows], sin[rows], 0.1, step, layer)
        return torch.cat([query, layer.keys[0, :, :count].transpose(0, 1)], 1)

    whole = turned(slice(None))
    for rows in (slice(1), slice(7, 9), slice(250, 300)):
        assert torch.equal(turned(rows), whole[rows])
