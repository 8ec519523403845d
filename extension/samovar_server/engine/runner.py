"""Runs one forward pass of the model: a chunk of a prompt, or one token for many rows."""

from __future__ import annotations

import inspect
from collections.abc import Sequence as Seq
from typing import Any, Protocol

import torch
from torch import Tensor

from samovar_server.engine.kv_cache import SlotCache
from samovar_server.engine.step import DecodeStep, PrefillStep, Step

LENGTH_STEP = 64
"""Decode attends to a multiple of this many positions, so that few shapes occur."""
ROWS_STEP = 4
"""Decode runs a multiple of this many rows: 3 and 4 rows take the same time, 1 and 2 take longer."""


class ModelRunner(Protocol):
    """What the engine asks of a model, whichever way it is run.

    `slots` is how many sequences it holds at once. `resumes` says whether a sequence can be taken up again
    where it stands: only then may a prompt come in chunks, and a slot's prefix be used for another prompt.
    """

    resumes: bool
    slots: int
    model: Any
    device: torch.device

    def prefill(self, slot: int, tokens: Seq[int], start: int, *, every: bool = False) -> Tensor:
        """Compute prompt tokens from position `start` on.

        Returns logits [1, vocabulary] after the last token, or with `every` [len(tokens), vocabulary].
        """

    def decode(self, slots: Seq[int], tokens: Seq[int], positions: Seq[int]) -> Tensor:
        """One token for each of `slots`, at its position; logits [len(slots), vocabulary]."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` positions of slot `source`."""

    def growth_bytes(self) -> int:
        """Bytes that the cache may still come to take."""


class Runner:
    """The model and its slots' KV cache, as a function from tokens to logits."""

    resumes = True

    def __init__(self, model: Any, slots: int, context_length: int) -> None:
        """`model` is a transformers causal language model loaded with the engine's attention."""
        self.model = model
        self.device: torch.device = model.device
        self.slots = slots
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        layers = model.config.get_text_config().num_hidden_layers
        self.cache = SlotCache(layers, slots, context_length)

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Seq[int], start: int, *, every: bool = False) -> Tensor:
        """As ModelRunner has it."""
        end = start + len(tokens)
        self.cache.reserve(slot + 1, end)
        positions = torch.arange(start, end, device=self.device)
        step = PrefillStep(slot, start, end)
        return self._forward(tokens, positions[None], step, keep=0 if every else 1)[0]

    @torch.inference_mode()
    def decode(self, slots: Seq[int], tokens: Seq[int], positions: Seq[int]) -> Tensor:
        """As ModelRunner has it."""
        rows = min(-(-(max(slots) + 1) // ROWS_STEP) * ROWS_STEP, self.cache.slots)
        self.cache.reserve(rows, max(positions) + 1)
        length = min(-(-(max(positions) + 1) // LENGTH_STEP) * LENGTH_STEP, self.cache.length)
        row_tokens, row_positions, written = [0] * rows, [0] * rows, [self.cache.length] * rows
        for slot, token, position in zip(slots, tokens, positions, strict=True):
            row_tokens[slot], row_positions[slot], written[slot] = token, position, position
        step = DecodeStep(
            rows=rows,
            length=length,
            row_index=torch.arange(rows, device=self.device),
            positions=torch.tensor(row_positions, device=self.device),
            write_positions=torch.tensor(written, device=self.device),
        )
        logits = self._forward(row_tokens, step.positions[:, None], step, keep=1)[:, -1]
        return logits[torch.tensor(slots, device=self.device)]

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """As ModelRunner has it."""
        self.cache.reserve(max(source, target) + 1, length)
        self.cache.copy_prefix(source, target, length)

    def growth_bytes(self) -> int:
        """As ModelRunner has it."""
        return self.cache.growth_bytes()

    def _forward(self, tokens: Seq[int], positions: Tensor, step: Step, *, keep: int) -> Tensor:
        """Logits of the last `keep` positions, 0 meaning all."""
        self.cache.step = step
        ids = torch.tensor(tokens, device=self.device).view(positions.shape)
        logits: Tensor = self.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            slot_step=step,
            **({"logits_to_keep": keep} if self._keeps else {}),
        ).logits
        return logits[:, -keep:]
