"""Linear layers of the CPU engine: weights packed once, siblings computed together.

In float32 the product is ours (see `kernels.product`), in half precision oneDNN's. `F.linear` is slower for
few rows, and as important: with these a row's result has the same bits whatever the number of rows
(`F.linear` changes its kernel, and with it the order of additions, at several row counts). The engine's
promise of same request, same bits rests on this; `rows_agree` checks it on the machine at hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from samovar_server.engine.kernels.jit import Call, Kernel, has_threads, vectors
from samovar_server.engine.kernels.product import product
from samovar_server.engine.kernels.tiles import BFLOAT, FLOAT, UNROLLED, Format

ONEDNN_ROWS = 16
"""The row count that oneDNN lays weights out for; others run on the same layout."""

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that transformers' models call one after the other on the same input."""


def fused_name(names: Sequence[str]) -> str:
    """The module, beside the siblings `names`, that computes them together."""
    return "_".join(names)


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this build of torch has oneDNN's packed linear layers, and the processor can run them."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype != torch.float16 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def onednn_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows [n, in_features] by `weight` [out_features, in_features], packed or as it is, plus `bias`."""
    # One row alone would take another kernel, with other bits (and slower).
    padded = rows.expand(2, -1) if rows.shape[0] == 1 else rows
    y: Tensor = torch.ops.mkldnn._linear_pointwise(padded, weight, bias, "none", [], "")
    return y[: rows.shape[0]]


class RowLinear(nn.Module):
    """A linear layer for inference that is to give a row the same bits at any number of rows."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features]."""
        y = self.multiply(x.reshape(-1, self.in_features))
        return y.view(*x.shape[:-1], self.out_features)

    def multiply(self, rows: Tensor) -> Tensor:
        """rows [n, in_features] -> [n, out_features], with the bias added."""
        raise NotImplementedError


Factory = Callable[[nn.Linear], nn.Module]


class OnednnLinear(RowLinear):
    """The weight lives in oneDNN's layout only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ONEDNN_ROWS)

    def multiply(self, rows: Tensor) -> Tensor:
        """See RowLinear."""
        return onednn_product(rows, self.packed, self.bias)


class PanelLinear(RowLinear):
    """The weight lives in the panels of our own product only, in some format."""

    stored: Format
    panels: Tensor
    """As `product` has them."""

    def __init__(self, linear: nn.Linear, *, multiple: int = UNROLLED) -> None:
        """Features are filled up to a `multiple`, with zeros."""
        super().__init__(linear)
        self.missing = -self.in_features % multiple
        self.scale = torch.ones(self._panels() * vectors().panel)
        self._added = torch.zeros(len(self.scale))
        if self.bias is not None:
            self._added[: self.out_features] = self.bias

    @functools.cached_property
    def _prepared(self) -> tuple[Kernel, int, int, int]:
        """The kernel and the addresses of what it reads: a step is too short to look for them each time."""
        kernel = product(self.stored, vectors())
        return kernel, self.panels.data_ptr(), self.scale.data_ptr(), self._added.data_ptr()

    def _panels(self) -> int:
        return -(-self.out_features // vectors().panel)

    def in_panels(self, values: Tensor) -> Tensor:
        """values [outputs, n] as [panels, n, outputs of a panel]; outputs that lack are zeros."""
        missing = self._panels() * vectors().panel - self.out_features
        whole = functional.pad(values, (0, 0, 0, missing))
        return whole.view(-1, vectors().panel, values.shape[1]).transpose(1, 2)

    def multiply(self, rows: Tensor) -> Tensor:
        """See RowLinear."""
        x = rows.float()
        if self.missing:
            x = functional.pad(x, (0, self.missing))
        if x.stride(1) != 1:
            x = x.contiguous()
        y = x.new_empty(x.shape[0], self.out_features)
        self.call(x, y).run()
        return y if y.dtype == rows.dtype else y.to(rows.dtype)

    def call(self, x: Tensor, y: Tensor) -> Call:
        """`multiply` into y, for float32 with as many features as the panels have, side by side."""
        kernel, *weights = self._prepared
        sizes = (*x.shape, self.out_features, x.stride(0))
        return Call(kernel, (x.data_ptr(), *weights, y.data_ptr(), *sizes))


class FloatLinear(PanelLinear):
    """Weights in float32. Those that are bfloat16's, as a file had them, are kept so: nothing is lost."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = functional.pad(linear.weight.detach().float(), (0, self.missing))
        halved = weight.bfloat16()
        is_halved = torch.equal(halved.float(), weight)
        self.stored = BFLOAT if is_halved else FLOAT
        self.panels = self.in_panels(halved if is_halved else weight).contiguous()


class FusedLinears(nn.Module):
    """Sibling layers as one product: the first that is called on an input computes for all.

    A part is taken once for an input, which must be the very same tensor; any other call computes anew.
    """

    def __init__(self, linears: Sequence[nn.Linear], make: Factory) -> None:
        super().__init__()
        self.whole = make(_concatenated(linears))
        sizes = [linear.out_features for linear in linears]
        self._shelf = _Shelf(self.whole, sizes)
        for index, linear in enumerate(linears):
            first = sum(sizes[:index])
            columns = slice(first, first + sizes[index])
            self.add_module(str(index), FusedPart(self._shelf, index, linear, columns))

    def part(self, index: int) -> FusedPart:
        """What is to stand where sibling `index` stood."""
        part: FusedPart = self.get_submodule(str(index))
        return part


class _Shelf:
    """The outputs of the last input that were not taken yet. No module, for those are slow to write to."""

    __slots__ = ("_input", "_parts", "_sizes", "whole")

    def __init__(self, whole: nn.Module, sizes: list[int]) -> None:
        self.whole = whole
        self._sizes = sizes
        self._input: Tensor | None = None
        self._parts: list[Tensor | None] = []

    def take(self, x: Tensor, index: int) -> Tensor:
        """What sibling `index` gives for `x`: a view, whose rows lie apart."""
        part = self._parts[index] if x is self._input else None
        if part is None:
            self._input, self._parts = x, list(self.whole(x).split_with_sizes(self._sizes, -1))
            part = self._parts[index]
            assert part is not None
        self._parts[index] = None
        if all(other is None for other in self._parts):
            self._input = None
        return part


class FusedPart(nn.Module):
    """One of the siblings: the outputs `columns` of the whole."""

    def __init__(self, shelf: _Shelf, index: int, linear: nn.Linear, columns: slice) -> None:
        super().__init__()
        self.index = index
        self.columns = columns
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._shelf = shelf

    @property
    def whole(self) -> nn.Module:
        """The layer that computes all siblings."""
        return self._shelf.whole

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features]."""
        return self._shelf.take(x, self.index)


def as_it_is(linear: nn.Linear) -> nn.Linear:
    """The factory that changes nothing."""
    return linear


def float_factory(device: torch.device, dtype: torch.dtype) -> Factory:
    """How layers whose weights are not quantised are to be run on `device`."""
    if device.type != "cpu":
        return as_it_is
    if dtype == torch.float32:
        return FloatLinear if has_threads() else as_it_is
    return OnednnLinear if can_pack(dtype) else as_it_is


def replace_linears(model: nn.Module, factory_for: Callable[[nn.Linear], Factory]) -> int:
    """Replace every plain `nn.Linear` below `model` by what its factory makes; returns how many there were.

    Siblings become one layer, by the factory for the first of them. A weight that is also an embedding (tied
    vocabulary head) stays for the embedding's sake.
    """
    count = 0
    for parent in list(model.modules()):
        linears = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
        count += len(linears)
        for names in SIBLINGS:
            if all(name in linears for name in names):
                siblings = [linears[name] for name in names]
                if len({(linear.in_features, linear.bias is None) for linear in siblings}) > 1:
                    continue
                fused = FusedLinears(siblings, factory_for(siblings[0]))
                parent.add_module(fused_name(names), fused)
                for index, name in enumerate(names):
                    setattr(parent, name, fused.part(index))
                    del linears[name]
        for name, linear in linears.items():
            setattr(parent, name, factory_for(linear)(linear))
    return count


def rows_agree(linear: nn.Module, features: int, dtype: torch.dtype) -> bool:
    """Whether `linear` gives a row the same bits at several row counts, on this machine."""
    x = torch.randn(272, features, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = linear(x)
    return all(torch.equal(linear(x[:n]), whole[:n]) for n in (1, 2, 3, 4, 5, 8, 16, 17, 32, 33, 100))


def _concatenated(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One layer with the outputs of `linears` after each other."""
    whole = nn.Linear(1, 1, device="meta")
    whole.in_features = linears[0].in_features
    whole.out_features = sum(linear.out_features for linear in linears)
    whole.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]), False)
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    whole.bias = nn.Parameter(torch.cat(biases), False) if biases else None
    return whole
