"""Writes a model that computes the same as another, with weights that were never rounded to a few bits.

    python -m tests.benchmarks.twin FOLDER TWIN [SEED]
    python -m tests.benchmarks.perplexity TWIN

The demo model comes from a file in 4 bits, whose levels int4 finds again: what int4 costs other models does
not show on it. Between two matrices of a Llama model a channel may be stretched if what follows shrinks it
as much, and no output changes. Stretched by numbers of their own, the weights of a group of 32 lie on no
common levels any more.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

MOST = 0.25
"""The natural logarithm of the greatest stretch, up and down."""
ALIKE = 1e-3
"""By how much logits may differ, which rounding in float32 makes."""


def main() -> None:
    folder, twin = map(Path, sys.argv[1:3])
    torch.manual_seed(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    tokens = torch.randint(model.config.vocab_size, (1, 64))
    before = model(tokens).logits
    for layer in model.model.layers:
        stretch_channels(layer, model.config)
    assert (model(tokens).logits - before).abs().max() < ALIKE, "it is to compute the same"
    shutil.copytree(folder, twin, ignore=shutil.ignore_patterns("*.safetensors*"))
    model.save_pretrained(twin)


def stretch_channels(layer: Any, config: Any) -> None:
    """Stretch the channels between the matrices of a decoder layer of Llama's."""
    attention, mlp = layer.self_attn, layer.mlp
    stretch_input(layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj)
    stretch_input(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj)
    width = random_stretch(mlp.up_proj.out_features)
    mlp.up_proj.weight.mul_(width[:, None])
    mlp.down_proj.weight.div_(width)
    heads = random_stretch(attention.v_proj.out_features)
    attention.v_proj.weight.mul_(heads[:, None])
    shared = config.num_attention_heads // config.num_key_value_heads
    by_head = heads.view(config.num_key_value_heads, 1, -1).expand(-1, shared, -1)
    attention.o_proj.weight.div_(by_head.flatten())


def stretch_input(norm: Any, *linears: Any) -> None:
    """Between a norm and the layers that read it."""
    stretch = random_stretch(len(norm.weight))
    norm.weight.mul_(stretch)
    for linear in linears:
        linear.weight.div_(stretch)


def random_stretch(channels: int) -> Tensor:
    return torch.empty(channels).uniform_(-MOST, MOST).exp()


if __name__ == "__main__":
    main()
