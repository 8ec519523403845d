"""What one forward pass of the model works on: a piece of one prompt, or one new token for many rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class PrefillStep:
    """Prompt positions `start` to `end` (exclusive) of the slot `row`."""

    row: int
    start: int
    end: int
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def mask(self, start: int, end: int, window: int | None, like: Tensor) -> Tensor:
        """Additive mask [end - start, end]: query i sees keys up to itself, the last `window` of them."""
        key = (start, end, window)
        if key not in self.masks:
            queries = torch.arange(start, end, device=like.device)[:, None]
            self.masks[key] = _mask(queries, torch.arange(end, device=like.device), window, like)
        return self.masks[key]


@dataclass(slots=True)
class DecodeStep:
    """One new token in each of the first `rows` slots, of which some are padding.

    `row_index` is arange(rows). `positions` [rows] are where the queries stand (0 for padding);
    `write_positions` [rows] where their keys go (the never-read last position for padding). Keys are
    seen up to `length`, a bucket that holds all rows.
    """

    rows: int
    length: int
    row_index: Tensor
    positions: Tensor
    write_positions: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, like: Tensor) -> Tensor:
        """Additive mask [rows, 1, 1, length]; computed once a step for each window size."""
        if window not in self.masks:
            queries = self.positions[:, None, None, None]
            keys = torch.arange(self.length, device=like.device)
            self.masks[window] = _mask(queries, keys, window, like)
        return self.masks[window]


Step = PrefillStep | DecodeStep


def _mask(queries: Tensor, keys: Tensor, window: int | None, like: Tensor) -> Tensor:
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
