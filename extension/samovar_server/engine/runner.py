"""Runs one forward pass of the model: a step of the engine as a function from tokens to logits."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from typing import Any

import torch
from torch import Tensor

from samovar_server.engine.adapters import Adapter, Rows, applied
from samovar_server.engine.graphs import Capture, Graphs
from samovar_server.engine.kv_cache import SlotCache
from samovar_server.engine.step import Decoding, Logits, NewToken, Piece, Step, Together, moved


class ModelRunner(ABC):
    """What the engine asks of a model, whichever way it is run.

    `slots` is how many sequences it holds at once. `resumes` says whether a sequence can be taken up again
    where it stands: only then may a prompt come in pieces, and a slot's prefix be used for another prompt.
    """

    resumes: bool
    slots: int
    model: Any
    device: torch.device

    @abstractmethod
    def run(self, tokens: Seq[NewToken], pieces: Seq[Piece]) -> Tensor:
        """Compute `tokens` and `pieces`, and keep what later steps need of them.

        All are of different slots, but for drafts: their tokens stand behind the newest ones, first all that
        are one place ahead of the newest of their slots, then all that are two ahead.

        Returns the logits that were asked for in their order, [rows, vocabulary].
        """

    @abstractmethod
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` positions of slot `source`."""

    @abstractmethod
    def trim(self, slot: int, length: int) -> None:
        """Give back the memory of `slot`'s positions from `length` on. What they held is lost."""

    @abstractmethod
    def growth_bytes(self, tokens: int | None) -> int:
        """Bytes that the cache still comes to take until it holds `tokens` (None: all it can)."""

    def prefill(self, slot: int, tokens: Seq[int], start: int, *, every: bool = False) -> Tensor:
        """Compute one piece; logits after its last token [1, vocabulary], or of `every` one."""
        return self.run((), [Piece(slot, tokens, start, Logits.EVERY if every else Logits.LAST)])

    def decode(self, slots: Seq[int], tokens: Seq[int], positions: Seq[int]) -> Tensor:
        """Compute one token for each of `slots`; logits [len(slots), vocabulary]."""
        return self.run([NewToken(*new) for new in zip(slots, tokens, positions, strict=True)], ())


class Runner(ModelRunner):
    """The model and its slots' KV cache."""

    resumes = True

    def __init__(
        self, model: Any, slots: int, context_length: int, *, capture: Capture | None = None
    ) -> None:
        """`model` is a transformers causal language model loaded with the engine's attention.

        With a `capture` steps that only decode become graphs.
        """
        self.model = model
        self.device: torch.device = model.device
        self.slots = slots
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        layers = model.config.get_text_config().num_hidden_layers
        self._fused = capture is not None or self.device.type != "cpu"
        self.cache = SlotCache(layers, slots, context_length, fixed=self._fused)
        self._graphs = None
        if capture is not None:
            self._graphs = Graphs(self._graphed, capture, self.cache, self.device)

    @torch.inference_mode()
    def run(self, tokens: Seq[NewToken], pieces: Seq[Piece]) -> Tensor:
        """As ModelRunner has it."""
        ends = [(token.slot, token.position + 1) for token in tokens]
        ends += [(piece.slot, piece.end) for piece in pieces]
        self.cache.reserve(ends)
        adapted = self._adapted(tokens, pieces)
        ahead = bool(tokens) and tokens[-1].ahead > 0
        if self._graphs is not None and not pieces and not adapted and not ahead:
            decoded = self._graphs.run(tokens)
            if decoded is not None:
                return decoded
        slots = [token.slot for token in tokens]
        ids = [token.token for token in tokens]
        positions = [token.position for token in tokens]
        wanted = list(range(len(tokens)))
        for piece in pieces:
            ids += piece.tokens
            positions += range(piece.start, piece.end)
            wanted += range(len(ids) - piece.rows, len(ids))
        # A model must give some logits; those of a piece that wants none go unread.
        index, row, places, keep = moved([slots, ids, positions, wanted or [len(ids) - 1]], self.device)
        decoding = None
        if tokens:
            decoding = Decoding(index, places[: len(slots)])
            if self._fused:
                length = max(token.position for token in tokens) + 1
                decoding.together = Together.of(slots, index, decoding.places, length)
        with applied(adapted):
            logits = self._forward(row, places, Step(decoding, pieces, bool(adapted), self._fused), keep)
        return (logits if self._keeps else logits[keep])[: len(wanted)]

    def _graphed(self, tokens: Tensor, decoding: Decoding) -> Tensor:
        assert decoding.together is not None
        return self._forward(tokens, decoding.together.positions, Step(decoding, (), fused=True), None)

    def _forward(self, tokens: Tensor, positions: Tensor, step: Step, keep: Tensor | None) -> Tensor:
        """Logits [rows, vocabulary] of the tokens in `keep`, where the model can choose, or of all."""
        self.cache.step = step
        logits: Tensor = self.model(
            input_ids=tokens[None],
            position_ids=positions[None],
            past_key_values=self.cache,
            use_cache=True,
            slot_step=step,
            **({"logits_to_keep": keep} if self._keeps and keep is not None else {}),
        ).logits[0]
        return logits

    def _adapted(self, tokens: Seq[NewToken], pieces: Seq[Piece]) -> dict[Adapter, Rows]:
        """The adapters in use, each with its tokens' places in the row of the step."""
        lengths = [(new.adapter, 1) for new in tokens] + [
            (piece.adapter, len(piece.tokens)) for piece in pieces
        ]
        places: dict[Adapter, list[int]] = {}
        end = 0
        for adapter, length in lengths:
            if adapter is not None:
                places.setdefault(adapter, []).extend(range(end, end + length))
            end += length
        return {
            adapter: slice(rows[0], rows[-1] + 1)
            if rows[-1] - rows[0] < len(rows)
            else moved([rows], self.device)[0]
            for adapter, rows in places.items()
        }

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """As ModelRunner has it."""
        self.cache.reserve([(target, length)])
        self.cache.copy_prefix(source, target, length)

    def trim(self, slot: int, length: int) -> None:
        """As ModelRunner has it."""
        self.cache.trim(slot, length)

    def growth_bytes(self, tokens: int | None) -> int:
        """As ModelRunner has it."""
        return self.cache.growth_bytes(tokens)
