"""Linear layers over bitsandbytes: nf4 anywhere, int8 on a GPU.

The library is imported when the first such layer is made: it takes its time.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from torch import Tensor, nn

from samovar_server.engine.linear import RowLinear, can_pack, onednn_product

BLOCK = 64
"""Weights of nf4 that share a scale; bitsandbytes' own default."""
THRESHOLD = 6.0
"""By the paper of LLM.int8()."""


class Nf4Linear(RowLinear):
    """Weights in 4 bits on the levels of a normal distribution, with a scale for each block of them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self._library = library()
        self.packed, self.state = self._library.functional.quantize_4bit(
            linear.weight.detach().contiguous(), blocksize=BLOCK, quant_type="nf4"
        )

    def multiply(self, rows: Tensor) -> Tensor:
        """See RowLinear."""
        if rows.device.type == "cpu" and can_pack():
            # The library would leave the product to MKL, whose bits depend on the number of rows.
            weight = self._library.functional.dequantize_4bit(self.packed, self.state)
            return onednn_product(rows, weight, self.bias)
        y: Tensor = self._library.matmul_4bit(rows, self.packed.t(), quant_state=self.state, bias=self.bias)
        return y


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
