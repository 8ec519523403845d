"""Packed and fused linear layers: the same results as torch's, and the same bits at any number of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from samovar_server.engine.linear import (
    FloatLinear,
    FusedPart,
    OnednnLinear,
    RowLinear,
    as_it_is,
    can_pack,
    float_factory,
    replace_linears,
    rows_agree,
)

needs_onednn = pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")


class Counted(RowLinear):
    """A plain product that counts how often it is computed."""

    calls = 0

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.weight_t = linear.weight.detach().t()

    def multiply(self, rows: Tensor) -> Tensor:
        Counted.calls += 1
        return rows @ self.weight_t if self.bias is None else rows @ self.weight_t + self.bias


class Attention(nn.Module):
    """The layers of an attention block, as transformers names them."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.q_proj = nn.Linear(64, 96, bias=bias)
        self.k_proj = nn.Linear(64, 32, bias=bias)
        self.v_proj = nn.Linear(64, 32, bias=bias)
        self.o_proj = nn.Linear(96, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)


@pytest.mark.parametrize(
    ("packing", "features", "outputs", "bias"),
    [
        (FloatLinear, 576, 1536, False),
        (FloatLinear, 1536, 576, True),
        (FloatLinear, 62, 7, True),
        pytest.param(OnednnLinear, 576, 1536, False, marks=needs_onednn),
        pytest.param(OnednnLinear, 64, 7, True, marks=needs_onednn),
    ],
)
def test_a_packed_layer_agrees_with_torch_and_with_itself(
    packing: type[RowLinear], features: int, outputs: int, bias: bool
) -> None:
    linear = nn.Linear(features, outputs, bias=bias)
    packed = packing(linear)
    x = torch.randn(3, 5, features)
    torch.testing.assert_close(packed(x), linear(x), atol=1e-4, rtol=1e-4)
    apart = torch.randn(features, 5).t()  # rows that lie apart in memory
    torch.testing.assert_close(packed(apart), linear(apart), atol=1e-4, rtol=1e-4)
    assert packed(x[:0]).shape == (0, 5, outputs)
    assert rows_agree(packed, features, torch.float32)


def test_weights_that_were_bfloat16_are_kept_so_and_nothing_is_lost() -> None:
    linear = nn.Linear(64, 40).bfloat16().float()
    packed = FloatLinear(linear)
    assert packed.panels.dtype == torch.bfloat16
    x = torch.randn(3, 64)
    torch.testing.assert_close(packed(x), linear(x), atol=1e-5, rtol=1e-5)
    assert FloatLinear(nn.Linear(64, 40)).panels.dtype == torch.float32


def test_weights_are_packed_by_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, linear = torch.device("cpu"), "samovar_server.engine.linear."
    monkeypatch.setattr(f"{linear}can_pack", lambda dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(f"{linear}has_threads", lambda: True)
    assert float_factory(cpu, torch.float32) is FloatLinear
    assert float_factory(cpu, torch.bfloat16) is OnednnLinear
    assert float_factory(cpu, torch.float16) is as_it_is
    assert float_factory(torch.device("meta"), torch.float32) is as_it_is
    monkeypatch.setattr(f"{linear}has_threads", lambda: False)
    assert float_factory(cpu, torch.float32) is as_it_is


@pytest.mark.skipif(can_pack(torch.float16), reason="this processor multiplies in float16")
def test_float16_runs_where_the_processor_does_not_multiply_in_it() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 48)).half()
    x = torch.randn(3, 64).half()
    expected = model.float()(x.float())
    replace_linears(model.half(), lambda _: float_factory(torch.device("cpu"), torch.float16))
    torch.testing.assert_close(model(x).float(), expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("bias", [False, True])
def test_siblings_are_computed_once_for_an_input(bias: bool) -> None:
    block = Attention(bias)
    x = torch.randn(2, 3, 64)
    expected = block(x)
    assert replace_linears(block, lambda _: Counted) == 4
    Counted.calls = 0
    for mine, theirs in zip(block(x), expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert Counted.calls == 1
    block(x)  # the same tensor again, whose values may have been changed meanwhile
    assert Counted.calls == 2


def test_siblings_on_different_inputs_are_computed_apart() -> None:
    block = Attention()
    x, y = torch.randn(3, 64), torch.randn(5, 64)
    expected = [block.q_proj(x), block.k_proj(y), block.v_proj(y), block.q_proj(y)]
    replace_linears(block, lambda _: Counted)
    got = [block.q_proj(x), block.k_proj(y), block.v_proj(y), block.q_proj(y)]
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_part_taken_twice_sees_what_its_input_has_become() -> None:
    block = Attention()
    plain = block.q_proj
    replace_linears(block, lambda _: Counted)
    x = torch.randn(3, 64)
    block.q_proj(x)
    x += 1
    torch.testing.assert_close(block.q_proj(x), plain(x))


def test_an_input_is_let_go_once_all_siblings_are_taken() -> None:
    block = Attention()
    replace_linears(block, lambda _: Counted)
    block(torch.randn(3, 64))
    assert block.q_proj._shelf._input is None


def test_layers_that_differ_in_their_inputs_are_no_siblings() -> None:
    block = Attention()
    block.v_proj = nn.Linear(32, 32)
    replace_linears(block, lambda _: Counted)
    assert not any(isinstance(module, FusedPart) for module in block.modules())


def test_only_plain_linear_layers_are_replaced() -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(8, 8), Special(8, 8), nn.Embedding(8, 8))
    assert replace_linears(model, lambda _: Counted) == 1
    assert [type(module) for module in model] == [Counted, Special, nn.Embedding]


def test_a_tied_head_leaves_the_embedding_alone() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(32, 64), "head": nn.Linear(64, 32, bias=False)})
    model["head"].weight = model["embed"].weight
    before = model["embed"].weight.clone()
    replace_linears(model, lambda _: FloatLinear)
    assert torch.equal(model["embed"].weight, before)
