"""LoRA adapters on the resident model, several in one step, each for the tokens of its own requests.

Hu et al., LoRA, 2021: a linear layer's output gets `up (down x)` added, with two matrices of low rank. All
tokens of a step go through the model's own layers as ever; those of a request with an adapter get their
addition behind, by products that give a row the same bits at any number of rows. So a request's bits depend
neither on its neighbours nor on their adapters, and the model's weights stay what they are, quantised or not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from samovar_server.engine.adapter_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    Factors,
    read_adapter,
    refusal,
)
from samovar_server.engine.layers import linear
from samovar_server.engine.linear import FusedPart, RowLinear, float_factory, rows_agree
from samovar_server.protocol.adapters import AdapterFolder

Rows: TypeAlias = slice | Tensor
"""Places of tokens in the row of a step: a slice where they stand together, which copies nothing."""

KEPT = 8
"""Adapters that stay loaded when no request uses them; the one that was unused longest goes."""


@dataclass(frozen=True, slots=True)
class Update:
    """What is added to the output of a layer: `up` of `down` of its input."""

    down: nn.Module
    up: nn.Module


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A loaded adapter. `key` names this version of its files; `updates` are by the layer they belong to.

    `inexact_because` is None where a request's bits do not depend on its neighbours' adapters.
    """

    key: str
    updates: Mapping[nn.Module, Update]
    inexact_because: str | None = None


class Adapters:
    """The loaded adapters of `model`. The compute thread owns them."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._packed = float_factory(model.device, model.dtype)
        self._loaded: OrderedDict[str, Adapter] = OrderedDict()

    def get(self, folder: AdapterFolder) -> Adapter:
        """The adapter in `folder`, loaded if it is not, or if its files have changed.

        InvalidRequest says why it cannot be used with this model.
        """
        key = _version(folder)
        if key not in self._loaded:
            self._loaded[key] = self._load(folder, key)
        self._loaded.move_to_end(key)
        while len(self._loaded) > KEPT:
            self._loaded.popitem(last=False)
        return self._loaded[key]

    def _load(self, folder: AdapterFolder, key: str) -> Adapter:
        files = read_adapter(folder)
        parts: dict[nn.Module, list[tuple[slice, Factors]]] = {}
        for factors in files.factors:
            module, columns = self._site(folder, files, factors)
            parts.setdefault(module, []).append((columns, factors))
        updates: dict[nn.Module, Update] = {}
        reason = None
        for module, together in parts.items():
            down, up = _joined(together, module.out_features)
            updates[module] = update = Update(self._product(down), self._product(up))
            for product in (update.down, update.up):
                if reason is None and isinstance(product, RowLinear) and not self._agrees(product):
                    reason = "this processor's kernels for it depend on how many requests run together"
        return Adapter(key, updates, reason)

    def _site(self, folder: AdapterFolder, files: AdapterFiles, factors: Factors) -> tuple[nn.Module, slice]:
        """The layer that computes what `factors` are for, and which of its outputs those are."""
        target = factors.target
        try:
            layer = self._model.get_submodule(target)
        except AttributeError:
            raise refusal(folder, f"the model has no layer {target}.{_made_for(files)}") from None
        if "experts" in target.split("."):  # which are given the tokens that were routed to them
            raise refusal(
                folder, f"{target} is an expert of a mixture, and for those no adapter is supported."
            )
        if layer is self._model.get_output_embeddings():  # which is given the last tokens only
            raise refusal(folder, f"{target} is the vocabulary head, and for that no adapter is supported.")
        if not isinstance(layer, FusedPart | RowLinear | nn.Linear):
            raise refusal(folder, f"{target} is no linear layer, and only for those adapters are supported.")
        has = factors.down.shape[1], factors.up.shape[0]
        if has != (layer.in_features, layer.out_features):
            raise refusal(
                folder,
                f"for {target} it has {has[0]} inputs and {has[1]} outputs, and the model "
                f"{layer.in_features} and {layer.out_features}.{_made_for(files)}",
            )
        if isinstance(layer, FusedPart):
            return layer.whole, layer.columns
        return layer, slice(0, layer.out_features)

    def _product(self, weight: Tensor) -> nn.Module:
        model = self._model
        placed = linear(weight.to(model.device, model.dtype).contiguous(), None)
        return self._packed(placed)

    def _agrees(self, product: RowLinear) -> bool:
        return rows_agree(product, product.in_features, self._model.dtype)


@contextmanager
def applied(rows: Mapping[Adapter, Rows]) -> Iterator[None]:
    """While this is entered, the model's layers make each adapter's additions for its `rows` of tokens."""
    with ExitStack() as hooks:
        for module in {module for adapter in rows for module in adapter.updates}:
            hooks.enter_context(module.register_forward_hook(partial(_add, rows)))
        yield


def _add(rows: Mapping[Adapter, Rows], module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A layer's output with what the adapters add to it; no other row is touched."""
    x = args[0].reshape(-1, args[0].shape[-1])
    y = output.reshape(-1, output.shape[-1])
    for adapter, mine in rows.items():
        if (update := adapter.updates.get(module)) is not None:
            y[mine] += update.up(update.down(x[mine]))
    return y.view(output.shape)


def _joined(parts: Sequence[tuple[slice, Factors]], width: int) -> tuple[Tensor, Tensor]:
    """One pair of matrices for what is added to parts of an output `width` wide, as siblings' outputs are.

    Each part of `up` reads its own ranks only; zeros cost less here than a product for each sibling does.
    """
    down = torch.cat([factors.down for _, factors in parts])
    up = torch.zeros(width, len(down))
    rank = 0
    for columns, factors in parts:
        end = rank + len(factors.down)
        up[columns, rank:end] = factors.up
        rank = end
    return down, up


def _version(folder: AdapterFolder) -> str:
    try:
        stats = [(Path(folder.path) / name).stat() for name in (CONFIG_FILE, WEIGHTS_FILE)]
    except OSError as error:
        raise refusal(folder, f"its {CONFIG_FILE} or {WEIGHTS_FILE} is gone.") from error
    return f"{folder.path}@{'-'.join(f'{stat.st_mtime_ns}.{stat.st_size}' for stat in stats)}"


def _made_for(files: AdapterFiles) -> str:
    return f" The adapter was made for {files.base}." if files.base else ""
