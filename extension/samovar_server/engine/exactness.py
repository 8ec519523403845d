"""Whether the promise "same request, same bits" holds for a loaded model, and if not, why.

It holds when every matrix product of the model gives a row the same bits at any number of rows, and attention
gives them to a query whatever else is attended with. The packed linear layers and the blocks of attention do
on every machine seen so far; this is checked on the machine at hand, as the libraries choose their kernels by
processor. Sampling and normalisation work row by row anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from samovar_server.engine.attention import Settings, attend_rows
from samovar_server.engine.grid import DECODE_BLOCK, DECODE_STEP, LEAST_DECODED, decode_length
from samovar_server.engine.kv_cache import SlotCache
from samovar_server.engine.linear import RowLinear, rows_agree
from samovar_server.engine.step import Decoding, Round, Step

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


def why_not_exact_attention(model: Any, cache: SlotCache) -> str | None:
    """As `why_not_exact`, for the attention of decode steps over the `cache`, which has been written to."""
    heads: int = model.config.get_text_config().num_attention_heads
    shapes = {(layer.keys.shape[1], layer.keys.shape[3]) for layer in cache.layers if layer.is_initialized}
    for kv_heads, head_dim in shapes:
        if not decode_agrees(heads, kv_heads, head_dim, model.dtype):
            return "this processor's kernels for attention depend on which requests run together"
    return None


def decode_agrees(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> bool:
    """Whether a new token's attention has the same bits alone and beside others, on this machine."""
    slots, length = 5, 2 * DECODE_BLOCK + LEAST_DECODED
    source = torch.Generator().manual_seed(0)
    query = torch.randn(slots, heads, head_dim, generator=source).to(dtype)
    key, value = torch.randn(2, slots, kv_heads, length, head_dim, generator=source).to(dtype)

    def decoded(positions: list[int]) -> Tensor:
        index, at = torch.arange(len(positions)), torch.tensor(positions)
        each = Round(at, 0, len(positions), decode_length(max(positions) + 1), None)
        step = Step(Decoding(index, at, [each]), ())
        return attend_rows(query[: len(positions)], key, value, step, Settings(None, None, None))[0]

    for position in range(LEAST_DECODED // 2, DECODE_BLOCK + 2 * LEAST_DECODED, DECODE_STEP):
        alone = decoded([position])
        for others in ([0], [length - 1, 5, length // 2, 0]):
            if not torch.equal(alone, decoded([position, *others])):
                return False
    return True
