"""Lean layers compute what transformers' layers compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from samovar_server.engine.kernels.jit import has_threads
from samovar_server.engine.lean import LeanForward
from samovar_server.engine.runner import Runner
from samovar_server.engine.step import Logits, NewToken, Piece, Rotary
from tests.extension.engine.test_architectures import load_tiny, prompts

pytestmark = pytest.mark.skipif(not has_threads(), reason="plain layers stay torch's here")


def lean_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(vars(module).get("forward"), LeanForward)]


def in_company(model: Any) -> torch.Tensor:
    """A prompt in pieces beside others, then tokens of slots with a gap between them."""
    runner = Runner(model, 4, 512)
    first, second, third = prompts()[:3]
    cut = 32
    logits = [
        runner.run((), [Piece(0, first, 0), Piece(3, second[:cut], 0, Logits.NONE)]),
        runner.run([NewToken(0, 5, len(first))], [Piece(3, second[cut:], cut), Piece(1, third, 0)]),
        runner.run([NewToken(0, 6, len(first) + 1), NewToken(3, 7, len(second))], ()),
    ]
    return torch.cat(logits)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2-window"])
def test_lean_layers_give_what_transformers_layers_give(name: str, tmp_path: Path) -> None:
    model = load_tiny(tmp_path, name).model
    layers = lean_layers(model)
    assert len(layers) == model.config.num_hidden_layers
    lean = in_company(model)
    for layer in layers:
        del layer.forward  # leaves that of its class
    torch.testing.assert_close(lean, in_company(model), rtol=1e-4, atol=1e-4)


def test_other_layouts_keep_their_own_layers(tmp_path: Path) -> None:
    assert not lean_layers(load_tiny(tmp_path, "qwen3").model)


def test_queries_keys_and_values_are_turned_as_transformers_turns_them() -> None:
    torch.manual_seed(0)
    tokens, heads = 3, (4, 2, 2)
    query, key, value = (torch.randn(1, count, tokens, 8) for count in heads)
    angles = torch.randn(1, tokens, 4).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    together = torch.cat((query, key, value), 1)[0].transpose(0, 1).contiguous()
    turned = Rotary.of(cos, sin, heads, 0.3).turn(together).transpose(0, 1)[None].split(heads, 1)
    torch.testing.assert_close(turned[0], expected[0] * 0.3)
    torch.testing.assert_close(turned[1], expected[1])
    assert torch.equal(turned[2], value)
