"""Linear layers with quantised weights, and which layer gets which.

On a CPU `int8` and `int4` are ours, over kernels that torch brings: rows keep their bits in any company,
as those of the packed float layers do. `nf4`, and `int8` on a GPU, are bitsandbytes' (see `bnb`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from samovar_server.engine import bnb
from samovar_server.engine.layers import to_linears
from samovar_server.engine.lean import make_lean
from samovar_server.engine.linear import RowLinear, as_it_is, float_factory, replace_linears

GROUP = 32
"""Weights of int4 that share a scale and a minimum; as in Q4_1 of GGUF, whose blocks come out unchanged."""
INT4_OUTPUTS = 16
"""The int4 kernel wants a multiple of so many outputs."""
LEVELS = 15
FINER = 254
"""How much finer than the first 8 bits of an input the second are; 127 then is half a step of the first."""
TINY = torch.finfo(torch.float32).tiny


def prepare_linears(model: Any, quantization: str, device: torch.device) -> None:
    """Replace the linear layers below `model`, which is on `device`, by those that it is to run with.

    A model's error is most sensitive to its vocabulary head: int4 keeps it in 8 bits, and bitsandbytes'
    ways leave it alone, as transformers does.
    """
    packed = float_factory(device, model.dtype)
    body, head = {
        "none": (packed, packed),
        "int8": (Int8Linear, Int8Linear) if device.type == "cpu" else (bnb.int8_linear, packed),
        "int4": (Int4Linear, Int8Linear),
        "nf4": (bnb.Nf4Linear, packed),
    }[quantization]
    if body is as_it_is and device.type == "cpu":
        return
    output = model.get_output_embeddings()
    if body is not as_it_is:
        to_linears(model)
    replace_linears(model, lambda linear: (head if linear is output else body)(linear))
    make_lean(model)
    if device.type == "cpu":
        _let_go_of_the_file(model)


def _let_go_of_the_file(model: nn.Module) -> None:
    """Copy what is left of the weights as they were read: one of them holds the whole file in memory."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


class Int8Linear(RowLinear):
    """Weights in 8 bits with a scale for each output; inputs in twice 8 bits with a scale for each row.

    Sums of products are whole numbers, so no order of additions shows in a result. The inputs' second
    8 bits cost little, as a step waits for the weights, and without them perplexity rises by 5 %.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_(min=TINY).div_(127)
        self.weight_t = (weight / scale[:, None]).round_().to(torch.int8).t()
        self.scale = scale

    def multiply(self, rows: Tensor) -> Tensor:
        """See RowLinear."""
        x = rows.float()
        step = x.abs().amax(-1, keepdim=True).clamp_(min=TINY).div_(127)
        x = x / step
        coarse = x.round()
        fine = x.sub_(coarse).mul_(FINER).round_()
        sums = torch._int_mm(torch.cat([coarse, fine]).to(torch.int8), self.weight_t)
        upper, lower = sums.float().chunk(2)
        y = torch.add(upper, lower, alpha=1 / FINER).mul_(self.scale).mul_(step)
        if self.bias is not None:
            y += self.bias
        return y.to(rows.dtype)


class Int4Linear(RowLinear):
    """Weights in 4 bits, with a scale and a minimum for each group of 32; products in bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        # Zeros that fill a last group or block neither change a product nor are they given back.
        self._missing = -self.in_features % GROUP
        weight = functional.pad(weight, (0, self._missing, 0, -self.out_features % INT4_OUTPUTS))
        levels, self.scales_and_zeros = quantize_groups(weight)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)

    def multiply(self, rows: Tensor) -> Tensor:
        """See RowLinear."""
        x = functional.pad(rows, (0, self._missing)) if self._missing else rows
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(torch.bfloat16), self.packed, GROUP, self.scales_and_zeros
        )
        if y.shape[1] > self.out_features:
            y = y[:, : self.out_features]
        y = y.to(rows.dtype)
        if self.bias is not None:
            y += self.bias
        return y


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [outputs, features] as levels 0..15 [outputs, features] and how to read them.

    The second is [groups, outputs, 2] in bfloat16: the step between levels, and the value of level 8.
    """
    groups = weight.unflatten(1, (-1, GROUP))
    low = groups.amin(dim=2, keepdim=True)
    step = (groups.amax(dim=2, keepdim=True) - low).div_(LEVELS)
    step.clamp_(min=TINY)
    # Levels are chosen for the step and the middle as they are stored, so that rounding those costs less.
    middle = (low + 8 * step).bfloat16()
    step = step.bfloat16()
    levels = ((groups - middle) / step).round_().add_(8).clamp_(0, LEVELS)
    scales_and_zeros = torch.cat([step, middle], dim=2).transpose(0, 1).contiguous()
    return levels.flatten(1).to(torch.int32), scales_and_zeros


def dequantize_groups(levels: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """What `quantize_groups` stored, as the kernel reads it, in float32."""
    step, middle = scales_and_zeros.float().transpose(0, 1)[..., None, :].unbind(-1)
    return ((levels.unflatten(1, (-1, GROUP)) - 8) * step + middle).flatten(1)
