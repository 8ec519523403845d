"""Models that turn texts into vectors, as the model's own card says (`embedding_card`).

A model without a card was not trained to give vectors, so none are made up for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from samovar_server.engine.embedding_card import Card, Pooling, normalise, read_card
from samovar_server.engine.quantize import prepare_linears
from samovar_server.engine.weights import read_weights
from samovar_server.loader.spec import WorkerSpec


@dataclass(frozen=True, slots=True)
class Embedder:
    """A loaded embedding model. `context_length` is the longest input in tokens."""

    model: Any
    tokenizer: Any
    card: Card
    context_length: int
    seconds: float

    @classmethod
    def load(cls, spec: WorkerSpec) -> Embedder:
        """Load the model of `spec`. LoadFailed says in one sentence why not."""
        began = time.monotonic()
        path = Path(spec.model_path)
        card = read_card(path, spec.model_name)
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        # A pooler makes one more vector of a text, which no card means.
        model = read_weights(AutoModel, spec, config, unused="pooler.")
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        prepare_linears(model, tokenizer, spec.quantization, model.device)
        longest = card.longest or min(
            config.get_text_config().max_position_embeddings, tokenizer.model_max_length
        )
        return cls(
            model=model,
            tokenizer=tokenizer,
            card=card,
            context_length=min(spec.context_length or longest, longest),
            seconds=time.monotonic() - began,
        )

    def tokenize(self, text: str) -> list[int]:
        """A text's tokens, with those that the model expects around it."""
        ids: list[int] = self.tokenizer(text.lower() if self.card.lowercase else text)["input_ids"]
        return ids

    @torch.inference_mode()
    def embed(self, ids: Sequence[int], dimensions: int | None = None) -> list[float]:
        """The vector of one input; alone in its batch, so that no neighbour can change a bit of it."""
        tokens = torch.tensor([ids], device=self.model.device)
        states = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
        vector = _pool(states, self.card.pooling).float().cpu()
        for stage in self.card.stages:
            vector = stage(vector)
        if dimensions is not None:
            vector = normalise(vector[:dimensions])
        numbers: list[float] = vector.tolist()
        return numbers

    @property
    def width(self) -> int:
        """Components of a vector."""
        size: int = self.card.width or self.model.config.get_text_config().hidden_size
        return size


def _pool(states: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "mean":
        return states.mean(dim=0)
    return states[0] if pooling == "cls" else states[-1]
