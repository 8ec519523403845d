"""Random LoRA adapters, made and saved by peft itself, whose model is the reference for their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from samovar_server.protocol.adapters import AdapterFolder

LLAMA_LAYERS = ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]
"""Some of the siblings that are computed together, and both kinds that are not."""


def write_adapter(folder: Path, model: Path, seed: int, **config: Any) -> PeftModel:
    """Write a random adapter for the model in the folder `model`; returns peft's model with it."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    given = {"r": 4, "lora_alpha": 16, "target_modules": LLAMA_LAYERS, "init_lora_weights": False} | config
    adapted = get_peft_model(base, LoraConfig(**given))
    adapted.save_pretrained(folder)
    return adapted.eval()


def folder_of(path: Path) -> AdapterFolder:
    return AdapterFolder(path.name, str(path))
