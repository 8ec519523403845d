"""Models that turn texts into vectors: pooled and normalised as the model's own card says.

The card is what sentence-transformers writes beside the weights: `1_Pooling/config.json`. A model without
it was not trained to give vectors, so none are made up for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from samovar_server.engine.quantize import prepare_linears
from samovar_server.errors import LoadFailed
from samovar_server.loader.spec import WorkerSpec

POOLING_CARD = Path("1_Pooling", "config.json")

Pooling = Literal["mean", "cls", "last"]

_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def makes_embeddings(folder: Path) -> bool:
    """Whether the model in `folder` says how its vectors are pooled."""
    return (folder / POOLING_CARD).is_file()


def read_pooling(folder: Path, name: str) -> Pooling:
    """The one way of pooling the card names; LoadFailed for none or a mixture."""
    card = json.loads((folder / POOLING_CARD).read_text())
    chosen = [mode for mode, on in card.items() if mode.startswith("pooling_mode_") and on is True]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise LoadFailed(
            f"{name} pools its vectors by {' and '.join(chosen) or 'nothing'}, which is not supported. "
            "Supported are the mean, the first (cls) and the last token."
        )
    return _MODES[chosen[0]]


@dataclass(frozen=True, slots=True)
class Embedder:
    """A loaded embedding model. `context_length` is the longest input in tokens."""

    model: Any
    tokenizer: Any
    pooling: Pooling
    normalise: bool
    context_length: int
    seconds: float

    @classmethod
    def load(cls, spec: WorkerSpec) -> Embedder:
        """Load the model of `spec`. LoadFailed says in one sentence why not."""
        began = time.monotonic()
        path = Path(spec.model_path)
        pooling = read_pooling(path, spec.model_name)
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        model = AutoModel.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, spec.dtype),
            use_safetensors=True,
            local_files_only=True,
        )
        model = model.eval().requires_grad_(False).to(spec.device)
        prepare_linears(model, spec.quantization, model.device)
        return cls(
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(path, local_files_only=True),
            pooling=pooling,
            normalise=_normalises(path),
            context_length=spec.context_length or int(config.max_position_embeddings),
            seconds=time.monotonic() - began,
        )

    @torch.inference_mode()
    def embed(self, ids: Sequence[int], dimensions: int | None = None) -> list[float]:
        """The vector of one input; alone in its batch, so that no neighbour can change a bit of it."""
        tokens = torch.tensor([ids], device=self.model.device)
        states = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
        vector = _pool(states, self.pooling).float()
        if dimensions is not None:
            vector = vector[:dimensions]
        if self.normalise or dimensions is not None:
            vector = torch.nn.functional.normalize(vector, dim=-1)
        numbers: list[float] = vector.tolist()
        return numbers

    @property
    def width(self) -> int:
        """Components of a vector."""
        size: int = self.model.config.get_text_config().hidden_size
        return size


def _pool(states: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "mean":
        return states.mean(dim=0)
    return states[0] if pooling == "cls" else states[-1]


def _normalises(folder: Path) -> bool:
    """Whether the card's list of modules ends in a normalisation. Without a list: yes, as OpenAI's are."""
    try:
        modules = json.loads((folder / "modules.json").read_text())
    except FileNotFoundError:
        return True
    return any(str(module.get("type", "")).endswith(".Normalize") for module in modules)
