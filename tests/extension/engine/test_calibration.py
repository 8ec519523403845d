"""What layers read, and that int4 rounds by it: in any architecture, for siblings and experts, too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from samovar_server.engine import attention
from samovar_server.engine.calibration import BACKGROUND, TEXT, TOKENS, feature_weights
from samovar_server.engine.layers import to_linears
from samovar_server.engine.linear import FusedPart
from samovar_server.engine.quantize import Int4Linear, prepare_linears
from samovar_server.engine.runner import Runner
from tests.extension.engine.helpers import Bytes
from tests.extension.engine.tiny_models import IN_SLOTS, tiny

pytestmark = pytest.mark.usefixtures("quiet_and_small")

PROMPT = list(range(3, 43))


def what_weighs(rows: Tensor) -> Tensor:
    """The formula, for rows [tokens, features]."""
    squares = normalize(rows, dim=1).square().sum(dim=0)
    return squares / squares.mean() + BACKGROUND


def test_features_weigh_what_their_squares_are_on_average() -> None:
    model = tiny("llama")
    got = feature_weights(model, Bytes())
    tokens = torch.tensor([list(TEXT.read_bytes()[:TOKENS])])
    with attention.by_transformers(model):
        states = model(tokens, output_hidden_states=True).hidden_states
    for layer, state in zip(model.model.layers, states, strict=False):
        read = what_weighs(layer.input_layernorm(state[0]))
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            torch.testing.assert_close(got[linear], read)
    assert len(got) == 7 * len(model.model.layers)
    assert model.lm_head not in got


def test_a_model_is_left_as_it_was() -> None:
    model = tiny("llama")
    before = Runner(model, 1, 64).prefill(0, PROMPT, 0)
    feature_weights(model, Bytes())
    assert torch.equal(Runner(model, 1, 64).prefill(0, PROMPT, 0), before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_every_load_rounds_alike() -> None:
    """Else a model that was unloaded and loaded again would answer otherwise."""
    first, again = tiny("llama"), tiny("llama")
    for model in (first, again):
        prepare_linears(model, Bytes(), "int4", torch.device("cpu"))
    for mine, theirs in zip(first.modules(), again.modules(), strict=True):
        if isinstance(mine, Int4Linear):
            assert torch.equal(mine.panels, theirs.panels)


def test_a_text_that_is_longer_than_the_window_is_cut() -> None:
    feature_weights(tiny("gpt2", n_positions=100), Bytes())
    model = tiny("llama")
    short, long = (feature_weights(model, Bytes(longest)) for longest in (100, 200))
    linear = model.model.layers[0].self_attn.q_proj
    assert not torch.equal(short[linear], long[linear])


def test_siblings_are_rounded_by_what_they_read() -> None:
    model = tiny("llama")
    mlp = model.model.layers[0].mlp
    linears = [mlp.gate_proj, mlp.up_proj]
    weights = feature_weights(model, Bytes())
    expected = [Int4Linear(linear, weights[linear]) for linear in linears]
    alike = [Int4Linear(linear) for linear in linears]
    prepare_linears(model, Bytes(), "int4", torch.device("cpu"))
    x = torch.randn(3, 64)
    got = [mlp.gate_proj(x), mlp.up_proj(x)]
    assert isinstance(mlp.gate_proj, FusedPart)
    assert all(torch.equal(mine, layer(x)) for mine, layer in zip(got, expected, strict=True))
    assert not any(torch.equal(mine, layer(x)) for mine, layer in zip(got, alike, strict=True))


def test_experts_that_no_token_reached_count_all_features_alike() -> None:
    model = tiny("mixtral")
    to_linears(model)
    weights = feature_weights(model, Bytes(1))  # one token, which goes to two of four experts
    experts = model.model.layers[0].mlp.experts.into
    reached = [expert in weights for expert in experts]
    assert sum(reached) == 2
    unreached = experts[reached.index(False)]
    x = torch.randn(3, 64)
    expected = Int4Linear(unreached)(x)
    prepare_linears(model, Bytes(1), "int4", torch.device("cpu"))
    assert torch.equal(model.model.layers[0].mlp.experts.into[reached.index(False)](x), expected)


@pytest.mark.parametrize("name", IN_SLOTS)
def test_every_architecture_keeps_its_sense_in_int4(name: str) -> None:
    model = tiny(name)
    expected = Runner(model, 1, 64).prefill(0, PROMPT, 0, every=True)
    prepare_linears(model, Bytes(), "int4", torch.device("cpu"))
    assert any(isinstance(module, Int4Linear) for module in model.modules())
    got = Runner(model, 1, 64).prefill(0, PROMPT, 0, every=True)
    alike = nn.functional.cosine_similarity(got.flatten(), expected.flatten(), dim=0)
    assert alike > 0.94
