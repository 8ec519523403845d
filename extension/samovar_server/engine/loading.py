"""From a model folder to a model the engine can run: weights, tokenizer, end-of-text tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from samovar_server.engine import attention
from samovar_server.engine.linear import can_pack, pack_linears
from samovar_server.errors import InvalidRequest, LoadFailed
from samovar_server.loader.spec import WorkerSpec

ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})

Report = Callable[[float], None]
"""Called with the fraction of the weights that is loaded."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What a load gives. `context_length` is in tokens; `stop_tokens` end a text."""

    model: Any
    tokenizer: Any
    context_length: int
    stop_tokens: frozenset[int]
    seconds: float


def load(spec: WorkerSpec, report: Report) -> LoadedWeights:
    """Load the model of `spec`. LoadFailed or InvalidRequest says in one sentence why not."""
    began = time.monotonic()
    path = Path(spec.model_path)
    attention.register()
    config = _read_config(path, spec.model_name)
    context_length = _context_length(config, spec)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    with _WeightsProgress(report):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, spec.dtype),
            attn_implementation=attention.NAME,
            use_safetensors=True,
            local_files_only=True,
        )
    model = model.eval().requires_grad_(False).to(spec.device)
    if model.device.type == "cpu" and can_pack():
        pack_linears(model)
    return LoadedWeights(
        model, tokenizer, context_length, _stop_tokens(model, tokenizer), time.monotonic() - began
    )


def _read_config(path: Path, name: str) -> Any:
    """The model's config, or LoadFailed when the engine cannot run such a model."""
    raw = json.loads((path / "config.json").read_text())
    if "auto_map" in raw:
        raise LoadFailed(
            f"{name} brings its own Python code, which this server does not run. Choose a model whose "
            "architecture is part of the transformers library."
        )
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if not kinds <= ATTENTION_LAYERS or getattr(text, "is_encoder_decoder", False):
        raise LoadFailed(
            f"{name} ({config.model_type}) is not a decoder with plain attention in every layer, which is "
            "what this engine runs. Choose another model."
        )
    return config


def _context_length(config: Any, spec: WorkerSpec) -> int:
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    wanted = spec.context_length or window
    if wanted is None:
        raise InvalidRequest(
            f"{spec.model_name} does not state its context window. Pass context_length.",
            param="context_length",
        )
    return int(wanted)


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text, by the generation config (one or several) and by the tokenizer."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None)


class _WeightsProgress:
    """While entered, reports what transformers' own progress bar over the weights counts."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._previous: Any = None

    def __enter__(self) -> None:
        self._previous = transformers_logging.set_tqdm_hook(self._bar)

    def __exit__(self, *error: object) -> None:
        transformers_logging.set_tqdm_hook(self._previous)

    def _bar(self, factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bar = factory(*args, **(kwargs | {"disable": False, "file": _Nowhere(), "mininterval": 0.1}))
        report = self._report

        def display(*_: object, **__: object) -> None:
            if bar.total:
                report(min(1.0, bar.n / bar.total))

        bar.display = display
        return bar


class _Nowhere:
    """Where the bar would be drawn; the worker's log is no place for it."""

    def write(self, text: str) -> int:
        """Discard."""
        return len(text)

    def flush(self) -> None:
        """Nothing is held."""
