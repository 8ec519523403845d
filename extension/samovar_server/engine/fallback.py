"""Runs models that the slots cannot hold, one sequence at a time, by the steps of transformers' `generate`.

For state-space models and hybrids (Mamba, Jamba), and for models with an attention of their own (Falcon,
BLOOM). The model's own cache holds the one running sequence. It cannot be cut back to a prefix, and such
models do not promise to take a prompt in pieces; so prompts come whole, and nothing is reused.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence as Seq
from typing import Any

import torch
from torch import Tensor

from samovar_server.engine.runner import ModelRunner
from samovar_server.engine.step import Logits, NewToken, Piece

CACHE_NAMES = ("past_key_values", "cache_params", "state")
"""What models call their cache, in their output and as an argument."""


class FallbackRunner(ModelRunner):
    """As `Runner`, for slot 0 only."""

    resumes = False
    slots = 1

    def __init__(self, model: Any, context_length: int) -> None:
        """`model` is any transformers model that generates text."""
        self.model = model
        self.device: torch.device = model.device
        self.context_length = context_length
        self._accepts = inspect.signature(model.forward).parameters
        self._cache: dict[str, Any] = {}
        self._length = 0

    @torch.inference_mode()
    def run(self, tokens: Seq[NewToken], pieces: Seq[Piece]) -> Tensor:
        """The sequence's next token, or a new sequence's whole prompt."""
        assert len(tokens) + len(pieces) == 1, "one sequence at a time"
        if tokens:
            (new,) = tokens
            assert new.slot == 0 and new.position == self._length, "token by token"
            return self._forward([new.token], keep=1)[-1:]
        (prompt,) = pieces
        assert prompt.slot == 0 and prompt.start == 0, "this model takes a prompt whole"
        self._cache, self._length = {}, 0
        every = prompt.logits is Logits.EVERY
        logits = self._forward(prompt.tokens, keep=0 if every else 1)
        return logits if every else logits[-1:]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Never asked for, as nothing is reused."""
        raise NotImplementedError("a model's own cache keeps no prefixes")

    def trim(self, slot: int, length: int) -> None:
        """Never asked for: one sequence at a time has room."""
        raise NotImplementedError("a model's own cache cannot be cut")

    def growth_bytes(self, tokens: int | None) -> int:
        """As ModelRunner has it; as far as the cache grows with the text, judged by what it holds."""
        layers = getattr(self._cache.get("past_key_values"), "layers", ())
        buffers = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
        held = sum(buffer.nbytes for buffer in buffers if buffer is not None)
        wanted = self.context_length if tokens is None else min(tokens, self.context_length)
        return held * max(wanted - self._length, 0) // max(self._length, 1)

    def _forward(self, tokens: Seq[int], *, keep: int) -> Tensor:
        first = self._length == 0
        self._length += len(tokens)
        asked: dict[str, Any] = dict(self._cache, use_cache=True)
        if "attention_mask" in self._accepts:
            asked["attention_mask"] = torch.ones(1, self._length, dtype=torch.long, device=self.device)
        inputs = self.model.prepare_inputs_for_generation(
            torch.tensor([tokens], device=self.device), is_first_iteration=first, **asked
        )
        if "logits_to_keep" in self._accepts:
            inputs["logits_to_keep"] = keep
        output = self.model(**inputs, return_dict=True)
        self._cache = {name: output[name] for name in CACHE_NAMES if output.get(name) is not None}
        assert self._cache, "generation needs a cache"
        logits: Tensor = output.logits[0]
        return logits
