"""Linear layers over bitsandbytes: nf4 anywhere, int8 on a GPU.

The library is imported when the first such layer is made: it takes its time.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from samovar_server.engine.linear import RowLinear

BLOCK = 64
"""Weights of nf4 that share a scale; bitsandbytes' own default."""
THRESHOLD = 6.0
"""By the paper of LLM.int8()."""
LEAST_ROWS = 4
"""On a CPU fewer rows would take another kernel, with other bits."""


class Nf4Linear(RowLinear):
    """Weights in 4 bits on the levels of a normal distribution, with a scale for each block."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self._library = library()
        self.packed, self.state = self._library.functional.quantize_4bit(
            linear.weight.detach().contiguous(), blocksize=BLOCK, quant_type="nf4"
        )

    def multiply(self, rows: Tensor) -> Tensor:
        """See RowLinear."""
        missing = LEAST_ROWS - rows.shape[0] if rows.device.type == "cpu" else 0
        x = torch.cat([rows, rows[:1].expand(missing, -1)]) if missing > 0 else rows
        y: Tensor = self._library.matmul_4bit(x, self.packed.t(), quant_state=self.state, bias=self.bias)
        return y[: rows.shape[0]]


def int8_linear(linear: nn.Linear) -> nn.Module:
    """bitsandbytes' LLM.int8(): inputs beyond the threshold are multiplied in half precision."""
    bnb = library()
    layer = bnb.nn.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        has_fp16_weights=False,
        threshold=THRESHOLD,
    )
    weight = linear.weight.detach()
    layer.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    return layer.to(weight.device)  # which is when it quantises


def library() -> Any:
    """The library, without what it says of kernels that it could have had from elsewhere."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"bitsandbytes\b")
    import bitsandbytes

    return bitsandbytes
