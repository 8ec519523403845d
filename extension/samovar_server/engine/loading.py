"""From a model folder to a model the engine can run: weights, tokenizer, end-of-text tokens."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from samovar_server.engine import attention, selfcheck
from samovar_server.engine.quantize import prepare_linears
from samovar_server.engine.weights import read_weights
from samovar_server.errors import LoadFailed
from samovar_server.loader.spec import WorkerSpec

log = logging.getLogger(__name__)

SLOT_LAYERS = frozenset({"full_attention", "sliding_attention"})
UNSTATED_WINDOW = 2048
"""Context length, in tokens, of models that state none (Mamba, BLOOM): what such models were trained with."""

Report = Callable[[float], None]
"""Called with the fraction of the weights that is loaded."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What a load gives. `context_length` is in tokens; `stop_tokens` end a text.

    `in_slots` says that `Runner` runs the model; otherwise it is for `FallbackRunner`.
    """

    model: Any
    in_slots: bool
    tokenizer: Any
    context_length: int
    stop_tokens: frozenset[int]
    seconds: float


def load(spec: WorkerSpec, report: Report) -> LoadedWeights:
    """Load the model of `spec`. LoadFailed says in one sentence why not."""
    began = time.monotonic()
    path = Path(spec.model_path)
    attention.register()
    config = _read_config(path, spec.model_name)
    context_length = _context_length(config, spec)
    # Decoding piece by piece cannot "clean up" spaces, as some tokenizers want to: what is out stays out.
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, clean_up_tokenization_spaces=False)
    model = None
    obstacle = _obstacle(config)
    if obstacle is None:
        model = _load_weights(spec, config, report, attention.NAME)
        # The rounding of quantised layers would hide what the check looks for, so they come after it.
        if spec.quantization == "none":
            prepare_linears(model, tokenizer, "none", model.device)
        obstacle = selfcheck.disagreement(model, context_length)
        if spec.quantization != "none" and obstacle is None:
            prepare_linears(model, tokenizer, spec.quantization, model.device)
    if obstacle is not None:
        if spec.quantization != "none":
            raise LoadFailed(
                f"{spec.model_name} runs by transformers' own means, as {obstacle}. That is not done with "
                f'quantised weights here. Load it with quantization "none" (asked: {spec.quantization}).'
            )
        log.warning(
            "%s runs one request at a time, by transformers' own means, as %s", spec.model_name, obstacle
        )
        model = None  # frees its memory first
        model = _load_weights(spec, _read_config(path, spec.model_name), report, None)
    return LoadedWeights(
        model=model,
        in_slots=obstacle is None,
        tokenizer=tokenizer,
        context_length=context_length,
        stop_tokens=_stop_tokens(model, tokenizer),
        seconds=time.monotonic() - began,
    )


def _obstacle(config: Any) -> str | None:
    """Why models of this config cannot run in the slots, to follow "as"; None when they may."""
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    text = config.get_text_config()
    others = set(getattr(text, "layer_types", None) or ()) - SLOT_LAYERS
    if architecture._is_stateful or others:
        kinds = ", ".join(sorted(others)) or "a recurrent state"
        return f"{config.model_type} has more in its layers than keys and values: {kinds}"
    if not architecture._supports_attention_backend:
        return f"{config.model_type} has an attention of its own, which cannot be replaced"
    return None


def _load_weights(spec: WorkerSpec, config: Any, report: Report, implementation: str | None) -> Any:
    """The model with this attention; None is transformers' choice."""
    with _WeightsProgress(report):
        return read_weights(AutoModelForCausalLM, spec, config, attention=implementation)


def _read_config(path: Path, name: str) -> Any:
    """The model's config, or LoadFailed when it is of no model that continues text."""
    raw = json.loads((path / "config.json").read_text())
    if "auto_map" in raw:
        raise LoadFailed(
            f"{name} brings its own Python code, which this server does not run. Choose a model whose "
            "architecture is part of the transformers library."
        )
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise LoadFailed(
            f"{name} ({config.model_type}) is not a model that continues a text. Choose a decoder model."
        )
    return config


def _context_length(config: Any, spec: WorkerSpec) -> int:
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(spec.context_length or window or UNSTATED_WINDOW)


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
