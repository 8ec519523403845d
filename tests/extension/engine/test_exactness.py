"""Which models can promise the same bits in any company, and what is said of those that cannot."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from samovar_server.engine.exactness import why_not_exact
from samovar_server.engine.linear import FloatLinear


class Model(nn.Module):
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.norm = nn.LayerNorm(8)
        self.layer = layer


def test_packed_layers_are_exact() -> None:
    assert why_not_exact(Model(FloatLinear(nn.Linear(64, 32)))) is None


def test_a_plain_layer_is_named() -> None:
    assert (
        why_not_exact(Model(nn.Linear(8, 8))) == "Linear (layer) is computed for all running requests at once"
    )


def test_a_layer_whose_rows_depend_on_each_other_is_found() -> None:
    class Coupled(FloatLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + x.shape[0] * 1e-6

    reason = why_not_exact(Model(Coupled(nn.Linear(64, 32))))
    assert reason is not None
    assert "this processor's kernels for layer" in reason


def test_a_gpu_is_named() -> None:
    model = Model(nn.Identity())
    model.device = torch.device("cuda:0")
    assert "cuda:0" in (why_not_exact(model) or "")
