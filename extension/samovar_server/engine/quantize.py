"""Linear layers with quantised weights, and which layer gets which.

On a CPU `int8` and `int4` are ours, by the same product as layers in float32 (see `kernels.product`): inputs
are not rounded, and rows keep their bits in any company. `nf4`, and `int8` on a GPU, are bitsandbytes' (see
`bnb`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from samovar_server.engine import bnb
from samovar_server.engine.calibration import feature_weights
from samovar_server.engine.kernels.product import GROUP, INT4, INT8
from samovar_server.engine.layers import to_linears
from samovar_server.engine.lean import make_lean
from samovar_server.engine.linear import Factory, PanelLinear, as_it_is, float_factory, replace_linears

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
        "int8": (Int8Linear, Int8Linear) if device.type == "cpu" else (bnb.int8_linear, packed),
        "int4": (Int4Linear, Int8Linear),
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


class Int8Linear(PanelLinear):
    """Weights in 8 bits, with a scale for each output."""

    stored = INT8

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = functional.pad(linear.weight.detach().float(), (0, self.missing))
        scale = weight.abs().amax(dim=1).clamp_(min=TINY).div_(WEIGHT_MOST)
        self.scale[: self.out_features] = scale
        self.panels = self.in_panels((weight / scale[:, None]).round_().to(torch.int8)).contiguous()


class Int4Linear(PanelLinear):
    """Weights in 4 bits, with a step and a middle for each group of features.

    `feature_weights` [features] says how much an error counts where; all count alike without.
    """

    stored = INT4

    def __init__(self, linear: nn.Linear, feature_weights: Tensor | None = None) -> None:
        super().__init__(linear, multiple=GROUP)
        if feature_weights is None:
            feature_weights = torch.ones(self.in_features)
        # Zeros that fill a last group neither change a product nor count as weights.
        levels, steps, middles = quantize_groups(
            functional.pad(linear.weight.detach().float(), (0, self.missing)),
            functional.pad(feature_weights, (0, self.missing)),
        )
        self.panels = self._packed(levels, steps, middles)

    def _packed(self, levels: Tensor, steps: Tensor, middles: Tensor) -> Tensor:
        """What `quantize_groups` gives, as `product.Int4` reads it."""
        first, second = self.in_panels(levels).unflatten(1, (-1, 2)).unbind(2)
        pairs = (first | second << 4).unflatten(1, (-1, GROUP // 2)).flatten(2)
        scales = torch.cat([self.in_panels(steps), self.in_panels(middles)], dim=2)
        return torch.cat([scales.contiguous().view(torch.uint8), pairs], dim=2)


class Groups(NamedTuple):
    """Weights in 4 bits.

    `levels` are 0 to 15, bytes [outputs, features]; `steps` between levels, and `middles`, the values of
    level 8, are bfloat16 [outputs, groups].
    """

    levels: Tensor
    steps: Tensor
    middles: Tensor


def quantize_groups(weight: Tensor, feature_weights: Tensor) -> Groups:
    """weight [outputs, features] in 4 bits.

    `feature_weights` [features], not all zero in any group, say how much a squared error counts.
    """
    counts = feature_weights.unflatten(0, (-1, GROUP))
    counts = counts / counts.sum(dim=1, keepdim=True)
    some_rows = weight.split(max(1, AT_ONCE // weight.shape[1]))
    parts = [_quantize_rows(rows, counts) for rows in some_rows]
    return Groups(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _quantize_rows(weight: Tensor, counts: Tensor) -> Groups:
    """As `quantize_groups`; `counts` [groups, 32] are 1 together.

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
    return Groups(best.levels.flatten(1).to(torch.uint8), best.step.squeeze(2), best.middle.squeeze(2))


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


def dequantize_groups(groups: Groups) -> Tensor:
    """The weights that the kernel reads from them, in float32."""
    step, middle = groups.steps.float()[..., None], groups.middles.float()[..., None]
    return ((groups.levels.unflatten(1, (-1, GROUP)).float() - 8) * step + middle).flatten(1)
