"""Whether a loaded model means in the slots what it means in transformers: tried, not believed.

An architecture may build its mask in its own way, leave the window to the mask, or keep more than keys and
values. Such a model would answer, wrongly. So after a load a few tokens go through the slots and through
transformers' own attention, and what comes out is compared.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch

from samovar_server.engine.attention import by_transformers
from samovar_server.engine.runner import Runner
from samovar_server.engine.step import Logits, NewToken, Piece

log = logging.getLogger(__name__)

CHUNKS = (4, 3)
"""Lengths of the prompt's pieces; few, for a large model computes them on a CPU."""
TOLERANCE = {torch.float32: 0.01}
LOW_PRECISION_TOLERANCE = 0.2
"""The largest difference of two logits, in standard deviations of the logits."""


def disagreement(model: Any, context_length: int) -> str | None:
    """How `model`, loaded with the engine's attention, fares ill in the slots, to follow "as"; or None.

    Windows that hold `context_length` tokens are as good as none.
    """
    try:
        return _compare(model, context_length)
    except Exception as error:
        log.warning("The engine's attention and cache do not fit this model", exc_info=True)
        return f"it fails in the slots with {type(error).__name__}"


def _compare(model: Any, context_length: int) -> str | None:
    config = model.config.get_text_config()
    tokens = [(17 * n + 3) % config.vocab_size for n in range(sum(CHUNKS) + 1)]
    expected = _plain(model, tokens)
    runner = Runner(model, 2, 16)
    first, second = CHUNKS
    end = first + second
    # Slot 0 is a neighbour, whose keys nobody else may see.
    neighbour = Piece(0, tokens[:2], 0, Logits.NONE)
    got = [
        runner.run((), [neighbour, Piece(1, tokens[:first], 0, Logits.EVERY)]),
        runner.run([NewToken(0, tokens[2], 2)], [Piece(1, tokens[first:end], first, Logits.EVERY)])[1:],
        runner.run([NewToken(0, tokens[3], 3), NewToken(1, tokens[end], end)], ())[1:],
    ]
    difference = ((torch.cat(got) - expected).abs().max() / expected.float().std()).item()
    allowed = TOLERANCE.get(expected.dtype, LOW_PRECISION_TOLERANCE)
    if not difference <= allowed:  # a NaN is none
        return f"its logits in the slots differ by {difference:.2g} standard deviations"
    seen, meant = _windows_seen(runner, context_length), _windows_meant(model, context_length)
    if seen != meant:
        return f"its layers ask for the windows {seen}, and its mask would have {meant}"
    return None


def _windows_seen(runner: Runner, context_length: int) -> set[int | None]:
    """The sliding windows that layers asked for in the last step; None is unlimited attention."""
    step = runner.cache.step
    assert step is not None
    return {window if window and window < context_length else None for window in step.windows}


def _windows_meant(model: Any, context_length: int) -> set[int | None]:
    """The sliding windows that transformers would put into the masks of `model`."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    # Some configurations state a window that their architecture has no use for.
    if not hasattr(sys.modules[type(model).__module__], "create_sliding_window_causal_mask"):
        window = None
    if window is None or window >= context_length:
        return {None}
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    return {window if kind == "sliding_attention" else None for kind in kinds}


@torch.inference_mode()
def _plain(model: Any, tokens: list[int]) -> torch.Tensor:
    with by_transformers(model):
        output = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)
    logits: torch.Tensor = output.logits[0]
    return logits
