"""Linear layers with quantised weights, and which layer gets which.

On a CPU `int8` and `int4` are ours, over kernels that torch brings: rows keep their bits in any company,
as those of the packed float layers do. `nf4`, and `int8` on a GPU, are bitsandbytes' (see `bnb`).
"""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from samovar_server.engine import bnb
from samovar_server.engine.calibration import feature_weights
from samovar_server.engine.layers import to_linears
from samovar_server.engine.lean import make_lean
from samovar_server.engine.linear import Factory, RowLinear, as_it_is, float_factory, replace_linears

GROUP = 32
"""Weights of int4 that share a scale and a minimum; as in Q4_1 of GGUF, whose blocks come out unchanged."""
INT4_OUTPUTS = 16
"""The int4 kernel wants a multiple of so many outputs."""
LEVELS = 15
SPANS = (15, 16)
"""Into how many steps the weights of a group are cut. With more than LEVELS the outermost are cut off a
little, and all others are finer. Weights that were never in 4 bits lose little more than half as much so."""
FITS = 2
"""How often levels are chosen anew for the step and the minimum that fitted the ones before."""
AT_ONCE = 2**18
"""Weights that are quantised together: so many fit into a processor's cache, and their copies into memory."""
WEIGHT_MOST = 127
"""What a weight of 8 bits can be, up and down."""
TINY = torch.finfo(torch.float32).tiny


def prepare_linears(model: Any, tokenizer: Any, quantization: str, device: torch.device) -> None:
    """Replace the linear layers below `model`, which is on `device`, by those that it is to run with.

    A model's error is most sensitive to its vocabulary head: int4 keeps it in 8 bits, and bitsandbytes'
    ways leave it alone, as transformers does. int4 lets the model read a short text first, to learn where
    else an error counts (see `calibration`).
    """
    packed = float_factory(device, model.dtype)
    body, head = {
        "none": (packed, packed),
        "int8": (int8_linear, int8_linear) if device.type == "cpu" else (bnb.int8_linear, packed),
        "int4": (Int4Linear, int8_linear),
        "nf4": (bnb.Nf4Linear, packed),
    }[quantization]
    if body is as_it_is and device.type == "cpu":
        return
    if body is not as_it_is:
        to_linears(model)
    output = model.get_output_embeddings()
    weights = feature_weights(model, tokenizer) if quantization == "int4" else {}

    def factory_for(linear: nn.Linear) -> Factory:
        if linear is output:
            return head
        return partial(Int4Linear, feature_weights=weights[linear]) if linear in weights else body

    replace_linears(model, factory_for)
    make_lean(model)
    if device.type == "cpu":
        _let_go_of_the_file(model)


def _let_go_of_the_file(model: nn.Module) -> None:
    """Copy what is left of the weights as they were read: one of them holds the whole file in memory."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def int8_linear(linear: nn.Linear) -> nn.Module:
    """The layer for weights in 8 bits that suits this processor.

    With VNNI oneDNN's packed product takes 1.6 ms for SmolLM2-135M's vocabulary head at 4 rows, `_int_mm`
    3.4 (EPYC of 2022, 2 cores). Without it oneDNN multiplies bytes one by one, or cuts off sums: 880 ms for
    all products of SmolLM2-135M at 16 rows, which FBGEMM does in 28 (EPYC of 2021).
    """
    if torch.cpu._is_vnni_supported():
        return OnednnInt8Linear(linear)
    return (FbgemmInt8Linear if has_fbgemm() else Int8Linear)(linear)


def has_fbgemm() -> bool:
    """Whether this build of torch has FBGEMM, which is made for x86."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


class Int8Linear(RowLinear):
    """Weights in 8 bits, with a scale for each output; inputs in twice 8 bits, with a scale for each row.

    Sums of products are whole numbers, so no order of additions shows in a result. The inputs' second
    8 bits cost little, as a step waits for the weights, and without them perplexity rises by 5 %.
    """

    most: ClassVar[int] = 127
    """What an input's part can be, up and down."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        self.scale = weight.abs().amax(dim=1).clamp_(min=TINY).div_(WEIGHT_MOST)
        self.pack((weight / self.scale[:, None]).round_().to(torch.int8))

    def pack(self, weight: Tensor) -> None:
        """Keep `weight` [outputs, features] as the product wants it."""
        self.weight_t = weight.t()

    def products(self, parts: Tensor) -> Tensor:
        """parts [n, features], whole numbers, by the weights and their scales: [n, outputs] in float32."""
        return torch._int_mm(parts.to(torch.int8), self.weight_t).float().mul_(self.scale)

    def multiply(self, rows: Tensor) -> Tensor:
        """See RowLinear."""
        x = rows.float()
        step = torch.linalg.vector_norm(x, math.inf, -1, keepdim=True).mul_(1 / self.most).add_(TINY)
        x = x / step
        finer = 2 * self.most  # the most then is half a step of the first part
        # Rounded here: FBGEMM does it after it has added the middle, and so may take the wrong neighbour.
        first = x.round()
        rest = (x - first).mul_(finer).round_()
        upper, lower = self.products(torch.cat([first, rest])).chunk(2)
        y = torch.add(upper, lower, alpha=1 / finer).mul_(step)
        if self.bias is not None:
            y += self.bias
        return y.to(rows.dtype)


class OnednnInt8Linear(Int8Linear):
    """The same with weights in oneDNN's layout. Its sums are whole only where the processor has VNNI."""

    def pack(self, weight: Tensor) -> None:
        """See Int8Linear."""
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)

    def products(self, parts: Tensor) -> Tensor:
        """See Int8Linear."""
        # VNNI wants inputs without a sign: oneDNN takes off again what the middle adds to the sums.
        middle = 128
        x = parts.add_(middle).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            x, 1.0, middle, self.packed, self.scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y


class FbgemmInt8Linear(Int8Linear):
    """The same by FBGEMM, with inputs in two parts of 7 bits: it adds up pairs of products in 16 bits."""

    most: ClassVar[int] = 63

    def pack(self, weight: Tensor) -> None:
        """See Int8Linear."""
        with warnings.catch_warnings():
            # torch is to drop quantised tensors some day; to these products there is no other way.
            warnings.filterwarnings("ignore", ".*quantized tensor creation functions", UserWarning)
            zeros = torch.zeros(len(weight), dtype=torch.int64)
            quantized = torch._make_per_channel_quantized_tensor(weight, self.scale.double(), zeros, 0)
        self.packed = torch.ops.quantized.linear_prepack(quantized, None)

    def products(self, parts: Tensor) -> Tensor:
        """See Int8Linear."""
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        y: Tensor = multiply(parts, 1.0, self.most + 1, self.packed)
        return y


class Int4Linear(RowLinear):
    """Weights in 4 bits, with a scale and a minimum for each group of 32; products in bfloat16.

    `feature_weights` [features] says how much an error counts where; all count alike without.
    """

    def __init__(self, linear: nn.Linear, feature_weights: Tensor | None = None) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        if feature_weights is None:
            feature_weights = torch.ones(self.in_features)
        # Zeros that fill a last group or block neither change a product nor are they given back.
        self._missing = -self.in_features % GROUP
        weight = functional.pad(weight, (0, self._missing, 0, -self.out_features % INT4_OUTPUTS))
        feature_weights = functional.pad(feature_weights, (0, self._missing))
        levels, self.scales_and_zeros = quantize_groups(weight, feature_weights)
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


def quantize_groups(weight: Tensor, feature_weights: Tensor) -> tuple[Tensor, Tensor]:
    """weight [outputs, features] as levels 0..15 [outputs, features] and how to read them.

    `feature_weights` [features], not all zero in any group, say how much a squared error counts. The second
    result is [groups, outputs, 2] in bfloat16: the step between levels, and the value of level 8.
    """
    counts = feature_weights.unflatten(0, (-1, GROUP))
    counts = counts / counts.sum(dim=1, keepdim=True)
    some_rows = weight.split(max(1, AT_ONCE // weight.shape[1]))
    parts = [_quantize_rows(rows, counts) for rows in some_rows]
    levels, scales_and_zeros = zip(*parts, strict=True)
    return torch.cat(levels), torch.cat(scales_and_zeros).transpose(0, 1).contiguous()


def _quantize_rows(weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantize_groups`, with the second as [outputs, groups, 2]; `counts` [groups, 32] are 1 together.

    For each group the best of some ways: levels from the least weight to the greatest, as Q4_1 of GGUF has
    them, or over about that or a little less, with the step and the minimum that fit best.
    """
    groups = weight.unflatten(1, (-1, GROUP))
    low = groups.amin(dim=2, keepdim=True)
    span = groups.amax(dim=2, keepdim=True) - low
    best = _rounded(groups, counts, span / LEVELS, low)
    for steps in SPANS:
        step = span / steps
        first = low + (span - LEVELS * step) / 2
        for _ in range(FITS):
            step, first = _fitted(groups, counts, step, first)
        better = _rounded(groups, counts, step, first)
        best = _Rounded(
            *(torch.where(better.error < best.error, x, y) for x, y in zip(better, best, strict=True))
        )
    scales_and_zeros = torch.cat([best.step, best.middle], dim=2)
    return best.levels.flatten(1).to(torch.int32), scales_and_zeros


class _Rounded(NamedTuple):
    """Groups as they are stored, and the mean squared difference of each: [outputs, groups, ...]."""

    levels: Tensor
    step: Tensor
    middle: Tensor
    error: Tensor


def _rounded(groups: Tensor, counts: Tensor, step: Tensor, low: Tensor) -> _Rounded:
    """`groups` with these steps between levels, and these values of level 0."""
    # Levels are chosen for the step and the middle as they are stored, so that rounding those costs less.
    middle = (low + 8 * step).bfloat16()
    step = step.clamp(min=TINY).bfloat16()
    levels = ((groups - middle) / step).round_().add_(8).clamp_(0, LEVELS)
    error = (levels - 8).mul_(step).add_(middle).sub_(groups).square_()
    return _Rounded(levels, step, middle, _mean(error, counts))


def _fitted(groups: Tensor, counts: Tensor, step: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """The step and the value of level 0 by which the levels of these ones come nearest to `groups`.

    By weighted least squares.
    """
    levels = ((groups - low) / step.clamp(min=TINY)).round_().clamp_(0, LEVELS)
    mean_level = _mean(levels, counts)
    apart = levels - mean_level
    spread = _mean(apart.square(), counts).clamp_(min=TINY)
    step = _mean(apart.mul_(groups), counts).div_(spread)
    return step, _mean(groups, counts) - step * mean_level


def _mean(groups: Tensor, counts: Tensor) -> Tensor:
    """The weighted mean of each group: [outputs, groups, 1]."""
    return (groups * counts).sum(dim=2, keepdim=True)


def dequantize_groups(levels: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """What `quantize_groups` stored, as the kernel reads it, in float32."""
    step, middle = scales_and_zeros.float().transpose(0, 1)[..., None, :].unbind(-1)
    return ((levels.unflatten(1, (-1, GROUP)) - 8) * step + middle).flatten(1)
