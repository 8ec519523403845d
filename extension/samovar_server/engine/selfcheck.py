"""Whether a loaded model means in the slots what it means in transformers: tried, not believed.

An architecture may build its mask in its own way, leave the window to the mask, or keep more than keys and
values. Such a model would answer, wrongly. So after a load a few tokens go through the slots and through
transformers' own attention, and what comes out is compared.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from samovar_server.engine import attention
from samovar_server.engine.runner import Runner

log = logging.getLogger(__name__)

CHUNKS = (4, 3)
"""Lengths of the prompt's pieces; few, for a large model computes them on a CPU."""
TOLERANCE = {torch.float32: 0.01}
LOW_PRECISION_TOLERANCE = 0.2
"""The largest difference of two logits, in standard deviations of the logits."""


def disagreement(model: Any) -> str | None:
    """How `model`, loaded with the engine's attention, fares ill in the slots, to follow "as"; or None."""
    try:
        return _compare(model)
    except Exception as error:
        log.warning("The engine's attention and cache do not fit this model", exc_info=True)
        return f"it fails in the slots with {type(error).__name__}"


def _compare(model: Any) -> str | None:
    config = model.config.get_text_config()
    tokens = [(17 * n + 3) % config.vocab_size for n in range(sum(CHUNKS) + 1)]
    expected = _plain(model, tokens)
    runner = Runner(model, 2, 16)
    start, got = 0, []
    for length in CHUNKS:
        runner.prefill(0, tokens[:2], 0)  # a neighbour, whose keys nobody else may see
        got.append(runner.prefill(1, tokens[start : start + length], start, every=True))
        start += length
    got.append(runner.decode([0, 1], [tokens[2], tokens[start]], [2, start])[1:])
    difference = ((torch.cat(got) - expected).abs().max() / expected.float().std()).item()
    allowed = TOLERANCE.get(expected.dtype, LOW_PRECISION_TOLERANCE)
    if not difference <= allowed:  # a NaN is none
        return f"its logits in the slots differ by {difference:.2g} standard deviations"
    seen, stated = windows_seen(runner), windows_stated(config)
    if seen != stated:
        return f"its layers use the windows {seen}, its configuration states {stated}"
    return None


def windows_seen(runner: Runner) -> set[int | None]:
    """The sliding windows that layers asked for in the last step; None is unlimited attention."""
    assert runner.cache.step is not None
    return {key for key in runner.cache.step.masks if not isinstance(key, tuple)}


def windows_stated(config: Any) -> set[int | None]:
    """The sliding windows that a model of this text config has."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or not kinds:
        return {window}
    return {window if kind == "sliding_attention" else None for kind in kinds}


@torch.inference_mode()
def _plain(model: Any, tokens: list[int]) -> torch.Tensor:
    model.set_attn_implementation("eager")
    try:
        output = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)
    finally:
        model.set_attn_implementation(attention.NAME)
    logits: torch.Tensor = output.logits[0]
    return logits
