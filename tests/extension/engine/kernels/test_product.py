"""The matrix product: near to the true one, and with the same bits in any company, in every format."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from samovar_server.engine.kernels.jit import AVX2, AVX512, NARROW, Vectors
from samovar_server.engine.kernels.product import BLOCK, GROUP, INT4, INT8, STRETCH, product
from samovar_server.engine.kernels.tiles import BFLOAT, FLOAT, Format

FORMATS = [FLOAT, BFLOAT, INT8, INT4]


class Weights:
    """Random weights of `outputs` by `features` in a format, and what they are in float32."""

    def __init__(self, stored: Format, shape: Vectors, outputs: int, features: int) -> None:
        self.stored, self.shape, self.outputs, self.features = stored, shape, outputs, features
        panels = -(-outputs // shape.panel)
        size = (panels, features, shape.panel)
        self.scale = torch.ones(panels * shape.panel)
        self.bias = torch.randn(panels * shape.panel)
        if stored is FLOAT:
            self.panels = values = torch.randn(size)
        elif stored is BFLOAT:
            self.panels = torch.randn(size).bfloat16()
            values = self.panels.float()
        elif stored is INT8:
            self.panels = torch.randint(-127, 128, size, dtype=torch.int8)
            self.scale = torch.rand(panels * shape.panel) / 127
            values = self.panels * self.scale.view(panels, 1, -1)
        else:
            levels = torch.randint(0, 16, (panels, features // GROUP, GROUP, shape.panel), dtype=torch.uint8)
            scales = torch.randn(panels, features // GROUP, 2, shape.panel).bfloat16()
            steps, middles = scales.float()[:, :, None].unbind(3)
            values = ((levels.float() - 8) * steps + middles).flatten(1, 2)
            pairs = (levels[:, :, 0::2] | levels[:, :, 1::2] << 4).flatten(2)
            self.panels = torch.cat([scales.flatten(2).view(torch.uint8), pairs], 2)
        self.values = values.transpose(1, 2).flatten(0, 1)[:outputs]

    def multiply(self, x: Tensor) -> Tensor:
        y = torch.full((x.shape[0] + 1, self.outputs), 7.0)
        product(self.stored, self.shape).run(
            x.data_ptr(),
            self.panels.data_ptr(),
            self.scale.data_ptr(),
            self.bias.data_ptr(),
            y.data_ptr(),
            x.shape[0],
            self.features,
            self.outputs,
            x.stride(0),
        )
        assert (y[-1] == 7).all(), "something is written behind the last row"
        return y[:-1]


@pytest.mark.parametrize("shape", [AVX512, AVX2, NARROW], ids=["avx512", "avx2", "narrow"])
@pytest.mark.parametrize("stored", FORMATS, ids=lambda stored: type(stored).__name__)
def test_products_are_near_and_rows_keep_their_bits(stored: Format, shape: Vectors) -> None:
    """LLVM makes any vectors of those that the processor has, so all shapes are tried everywhere."""
    torch.manual_seed(0)
    for outputs, features in [(5, GROUP), (2 * shape.panel, STRETCH), (3 * shape.panel + 7, STRETCH + 64)]:
        weights = Weights(stored, shape, outputs, features)
        x = torch.randn(2 * BLOCK + 9, features)
        whole = weights.multiply(x)
        expected = x.double() @ weights.values.double().t() + weights.bias[:outputs]
        torch.testing.assert_close(whole, expected.float(), atol=2e-4, rtol=2e-4)
        for rows in [*range(15), BLOCK, BLOCK + 1]:
            assert torch.equal(weights.multiply(x[:rows]), whole[:rows])
            assert torch.equal(weights.multiply(x[-rows:]), whole[-rows:])


def test_rows_may_lie_apart() -> None:
    weights = Weights(FLOAT, AVX2, 20, 64)
    x = torch.randn(9, 100)
    assert torch.equal(weights.multiply(x[:, :64]), weights.multiply(x[:, :64].contiguous()))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    weights = Weights(INT4, AVX2, 20 * AVX2.panel, 64)
    x, threads = torch.randn(9, 64), torch.get_num_threads()
    results = []
    for count in (1, 2, 3, 32):
        torch.set_num_threads(count)
        results.append(weights.multiply(x))
    torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)
