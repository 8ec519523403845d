"""Whether the promise "same request, same bits" holds for a loaded model, and if not, why.

It holds when every matrix product of the model gives a row the same bits at any number of rows. Ours do by
the way they add; of all packed layers it is checked on the machine at hand, as libraries choose their kernels
by processor. Attention on a CPU is ours, and sampling and normalisation work row by row anyway.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from samovar_server.engine.linear import RowLinear, rows_agree

LOOKUPS = (nn.Embedding,)
"""Modules whose weights are matrices but only looked up."""


def why_not_exact(model: Any) -> str | None:
    """None when the promise holds; else the reason, to follow "because" in a sentence."""
    if model.device.type != "cpu":
        return f"on {model.device} the order of additions depends on how many requests run together"
    shapes: set[tuple[type, int, int]] = set()
    for name, module in model.named_modules():
        if isinstance(module, RowLinear):
            shape = (type(module), module.in_features, module.out_features)
            if shape not in shapes and not rows_agree(module, module.in_features, model.dtype):
                return f"this processor's kernels for {name} depend on how many requests run together"
            shapes.add(shape)
        elif not isinstance(module, LOOKUPS) and _multiplies(module):
            return f"{type(module).__name__} ({name}) is computed for all running requests at once"
    return None


def _multiplies(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
