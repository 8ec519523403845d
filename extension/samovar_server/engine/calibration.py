"""What a model's linear layers read, so that their weights can be rounded where it shows least.

An error in a weight is multiplied by what its layer reads there, and some features are many times as large
as others (AWQ, Lin et al., 2023, https://arxiv.org/abs/2306.00978; llama.cpp calls this an importance
matrix). How large each is, one pass over a short text tells. Random tokens instead of a text tell it worse.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samovar_server.engine.attention import by_transformers

TEXT = Path(__file__).with_name("calibration.txt")
"""Some prose, code, figures, and a line each of other languages."""
TOKENS = 512
"""The most that is read of it; tokenizers with large vocabularies make fewer of the whole."""
BACKGROUND = 0.1
"""What a feature weighs in any case, where 1 is the average. So short a text knows no feature exactly."""


@torch.inference_mode()
def feature_weights(model: Any, tokenizer: Any) -> dict[nn.Linear, Tensor]:
    """How much an error counts at each input feature of the linear layers below `model`: [features] each.

    Layers that the text does not reach, such as experts that no token was routed to, are not in it.
    """
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None) or TOKENS
    longest = min(TOKENS, window, tokenizer.model_max_length)
    # Without `verbose` it would warn of a text that is longer than the model's window.
    tokens = tokenizer(TEXT.read_text(encoding="utf-8"), verbose=False)["input_ids"][:longest]
    sums: dict[nn.Linear, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_add_up, sums))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with by_transformers(model):
            # Not the vocabulary head: it is the largest layer of many a model, and stays in 8 bits.
            model.base_model(input_ids=torch.tensor([tokens], device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return {linear: sum_ / sum_.mean() + BACKGROUND for linear, sum_ in sums.items() if sum_.any()}


def _add_up(sums: dict[nn.Linear, Tensor], linear: nn.Linear, inputs: tuple[Tensor]) -> None:
    """Add the squares of `inputs` to what `linear` has read so far.

    Each token counts alike: the first of a text is hundreds of times as large as the others in some layers
    (Sun et al., 2024, https://arxiv.org/abs/2402.17762), and would stand for all.
    """
    rows = nn.functional.normalize(inputs[0].reshape(-1, linear.in_features).float(), dim=1)
    sums[linear] = sums.get(linear, 0) + rows.square_().sum(dim=0)
