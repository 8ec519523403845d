"""Reads LoRA adapters in the format of the peft library, and refuses what is more than LoRA.

The format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from samovar_server.errors import InvalidRequest
from samovar_server.protocol.adapters import AdapterFolder

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

UNDERSTOOD = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type", "use_rslora",
})  # fmt: skip
"""Fields that are honoured here or do not change what a trained adapter computes. Which layers it is for is
read off its weights; `fan_in_fan_out` and the initialisation matter to training only."""

HARMLESS_STARTS = frozenset({"gaussian", "eva", "orthogonal"})
"""Named ways to begin a training that leave the base as it is; others, such as PiSSA, change its weights."""

_WEIGHT = re.compile(r"base_model\.model\.(?P<target>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to the output of the layer `target` for an input x: `up @ (down @ x)`.

    `down` is [rank, inputs] and `up` [outputs, rank], which has the scale in it.
    """

    target: str
    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter as it was read. `base` is what its config says it was made for, "" if nothing."""

    base: str
    factors: tuple[Factors, ...]


def read_adapter(folder: AdapterFolder) -> AdapterFiles:
    """The adapter in `folder`. InvalidRequest says what is wrong with it, or what it has beyond LoRA."""
    config = _read_config(folder)
    return AdapterFiles(str(config.get("base_model_name_or_path") or ""), _read_factors(folder, config))


def refusal(folder: AdapterFolder, why: str) -> InvalidRequest:
    """The error of a request that means this adapter."""
    return InvalidRequest(f"Adapter {folder.name} cannot be used: {why}", param="model")


def _read_config(folder: AdapterFolder) -> Mapping[str, Any]:
    try:
        config = json.loads((Path(folder.path) / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refusal(folder, f"its {CONFIG_FILE} cannot be read. Save the adapter again.") from error
    if not isinstance(config, dict):
        raise refusal(folder, f"its {CONFIG_FILE} holds no JSON object. Save the adapter again.")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise refusal(folder, f"its peft_type is {kind}, and only LORA is supported.")
    if config.get("bias", "none") != "none":
        raise refusal(
            folder, f"bias is {config['bias']!r}. Only adapters that leave biases alone (none) are supported."
        )
    for name in sorted(config.keys() - UNDERSTOOD):
        if config[name]:
            raise refusal(folder, f"it sets {name}, which is not supported. Train it without {name}.")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in HARMLESS_STARTS:
        raise refusal(
            folder,
            f"init_lora_weights is {start!r}, with which training changes the base, too. Convert it "
            "to a plain LoRA by peft's save_pretrained(path_initial_model_for_weight_conversion=...).",
        )
    return config


def _read_factors(folder: AdapterFolder, config: Mapping[str, Any]) -> tuple[Factors, ...]:
    try:
        tensors = load_file(Path(folder.path) / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise refusal(folder, f"its {WEIGHTS_FILE} cannot be read. Save the adapter again.") from error
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _WEIGHT.fullmatch(name)
        if match is None or tensor.dim() != 2:
            raise refusal(folder, f"it holds {name}, which is no part of a LoRA of linear layers.")
        sides.setdefault(match["target"], {})[match["side"]] = tensor
    if not sides:
        raise refusal(folder, "it holds no weights.")
    factors = []
    for target, pair in sides.items():
        if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise refusal(folder, f"its two matrices for {target} do not go together. Save it again.")
        scale = _scale(folder, config, target, pair["A"].shape[0])
        factors.append(Factors(target, pair["A"].float(), pair["B"].float() * scale))
    return tuple(factors)


def _scale(folder: AdapterFolder, config: Mapping[str, Any], target: str, rank: int) -> float:
    """What the update of `target` is multiplied by: alpha / rank, or alpha / sqrt(rank) (rsLoRA)."""
    alpha = config.get("lora_alpha")
    # As peft reads a pattern: a regular expression for the end of a layer's name; the first one counts.
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        try:
            fits = re.match(rf"(.*\.)?({pattern})$", target)
        except re.error as error:
            raise refusal(folder, f"alpha_pattern: {pattern!r} is no regular expression.") from error
        if fits:
            alpha = value
            break
    if not isinstance(alpha, int | float):
        raise refusal(folder, f"lora_alpha is {alpha!r}, and has to be a number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
