"""Functions of vectors: as near as torch's, and right where they end."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from llvmlite import ir
from torch import Tensor

from samovar_server.engine.kernels import vector_math
from samovar_server.engine.kernels.emit import FLOAT_BYTES, Emitter, integer
from samovar_server.engine.kernels.jit import Kernel, new_kernel

COUNT = 4096
Function = Callable[[Emitter, ir.Value], ir.Value]


def applied(function: Function, x: Tensor, lanes: int) -> Tensor:
    work = new_kernel("function")
    e = Emitter(work, lanes)
    source, target = e.address(work.args[0], 0), e.address(work.args[0], 1)
    with e.loop(integer(x.numel()), lanes) as index:
        place = e.product(index, FLOAT_BYTES)
        e.store(function(e, e.load(e.floats, source, place)), target, place)
    e.finish()
    y = torch.empty_like(x)
    Kernel(work).run(x.data_ptr(), y.data_ptr(), alone=True)
    return y


@pytest.mark.parametrize("lanes", [1, 4, 8, 16])
def test_exp_is_near_from_end_to_end(lanes: int) -> None:
    x = torch.linspace(-86.9, 88, COUNT)
    relative = applied(vector_math.exp, x, lanes).double() / x.double().exp() - 1
    assert relative.abs().max() < 2e-7


def test_exp_ends_in_nothing_and_keeps_what_is_no_number() -> None:
    ends = torch.tensor([-math.inf, -1e30, -88.0, 0.0, -0.0, math.nan, 1.0, 88.0])
    got = applied(vector_math.exp, ends, 8)
    assert got[:3].tolist() == [0, 0, 0], "exactly"
    assert got[3:5].tolist() == [1, 1]
    assert got[5].isnan()


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(vector_math.tanh, torch.tanh), (vector_math.silu, torch.nn.functional.silu)],
    ids=["tanh", "silu"],
)
def test_functions_are_torchs(mine: Function, theirs: Callable[[Tensor], Tensor]) -> None:
    x = torch.cat([torch.linspace(-20, 20, COUNT), torch.tensor([1e4, -1e4, 1e-6, -1e-6, 0, 90, -90, 45])])
    torch.testing.assert_close(applied(mine, x, 8), theirs(x), rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_a_block_is_transposed(lanes: int) -> None:
    work = new_kernel("transposed")
    e = Emitter(work, lanes)
    source, target = e.address(work.args[0], 0), e.address(work.args[0], 1)
    rows = [e.load(e.floats, source, row * lanes * FLOAT_BYTES) for row in range(lanes)]
    for row, vector in enumerate(vector_math.transposed(e, rows)):
        e.store(vector, target, row * lanes * FLOAT_BYTES)
    e.finish()
    x = torch.randn(lanes, lanes)
    y = torch.empty_like(x)
    Kernel(work).run(x.data_ptr(), y.data_ptr(), alone=True)
    assert torch.equal(y, x.t())


@pytest.mark.parametrize(
    ("function", "expected"), [(vector_math.total, 36.0), (vector_math.greatest, 8.0)], ids=["sum", "max"]
)
def test_lanes_are_folded(function: Function, expected: float) -> None:
    x = torch.tensor([1.0, 2, 3, 8, 5, 6, 7, 4])
    assert applied(lambda e, vector: e.spread(function(e, vector)), x, 8).tolist() == [expected] * 8
