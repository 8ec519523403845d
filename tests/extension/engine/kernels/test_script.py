"""Scripts carry out kernels in order, anew each time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from samovar_server.engine.kernels import rowwise
from samovar_server.engine.kernels.jit import has_threads
from samovar_server.engine.kernels.script import Script

pytestmark = pytest.mark.skipif(not has_threads(), reason="kernels have one thread here")

ROWS, SIZE = 5, 16_384
"""Long rows, of which two threads cannot have equally many: one is done with a kernel before the other."""


@pytest.fixture
def tensors() -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(ROWS, SIZE, generator=source) for _ in range(3)]


def test_each_kernel_sees_what_those_before_it_have_written(tensors: list[Tensor]) -> None:
    x, more, y = tensors
    weight = torch.rand(SIZE)
    script = Script(
        [
            rowwise.add_call(x, more),
            rowwise.norm_call(x, weight, 1e-5, y),
            rowwise.add_call(y, more),
            rowwise.norm_call(y, weight, 1e-5, x),
        ]
    )
    expected = x.clone()
    for _ in range(50):
        script.run()
        expected = rowwise.rms_norm(expected + more, weight, 1e-5) + more
        assert torch.equal(y, expected)
        expected = rowwise.rms_norm(expected, weight, 1e-5)
        assert torch.equal(x, expected)


def test_an_argument_is_changed_in_all_calls_of_its_kernel(tensors: list[Tensor]) -> None:
    x, more, y = tensors
    before, weight = [tensor.clone() for tensor in tensors], torch.ones(SIZE)
    script = Script(
        [rowwise.add_call(x, more), rowwise.norm_call(more, weight, 1e-5, more), rowwise.add_call(y, more)]
    )
    adding = rowwise.add_call(x, more).kernel
    rows = 2  # of add's arguments
    script.set(adding, rows, 3)
    script.run()
    normed = rowwise.rms_norm(before[1], weight, 1e-5)
    assert torch.equal(x[:3], before[0][:3] + before[1][:3])
    assert torch.equal(y[:3], before[2][:3] + normed[:3])
    assert torch.equal(more, normed)
    assert torch.equal(x[3:], before[0][3:])
    assert torch.equal(y[3:], before[2][3:])
