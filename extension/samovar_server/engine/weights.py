"""Reads a model's weights: all that it has places for, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from samovar_server.errors import LoadFailed
from samovar_server.loader.spec import WorkerSpec

NAMED = 3
"""How many of the weights that lack are told."""


def read_weights(
    kind: Any, spec: WorkerSpec, config: Any, *, attention: str | None = None, unused: str | None = None
) -> Any:
    """The model in the folder of `spec`, as the class `kind` of transformers, ready for inference.

    `attention` None is transformers' choice. Weights whose name begins with `unused` may lack. LoadFailed
    when others do: transformers would fill them with random numbers, and the model would talk nonsense.
    """
    model, found = kind.from_pretrained(
        Path(spec.model_path),
        config=config,
        dtype=getattr(torch, spec.dtype),
        attn_implementation=attention,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    lacking = sorted(name for name in found["missing_keys"] if unused is None or not name.startswith(unused))
    if lacking:
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        raise LoadFailed(
            f"{spec.model_name} lacks weights of {type(model).__name__}: {', '.join(lacking[:NAMED])}{more}. "
            "Download it again, or choose a model that was made for this."
        )
    return model.eval().requires_grad_(False).to(spec.device)
