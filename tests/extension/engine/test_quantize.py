"""Quantised linear layers: how near they are, that rows keep their bits, and which layer gets which."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from samovar_server.engine import attention, quantize
from samovar_server.engine.exactness import why_not_exact
from samovar_server.engine.kernels.jit import has_threads
from samovar_server.engine.kernels.product import GROUP
from samovar_server.engine.linear import (
    FloatLinear,
    FusedPart,
    RowLinear,
    rows_agree,
)
from samovar_server.engine.loading import load
from samovar_server.engine.quantize import (
    Int4Linear,
    Int8Linear,
    dequantize_groups,
    prepare_linears,
    quantize_groups,
)
from samovar_server.engine.runner import Runner
from samovar_server.loader.spec import WorkerSpec
from tests.benchmarks.twin import stretch_channels
from tests.extension.engine.helpers import Bytes

CPU = torch.device("cpu")
ALICE = Path(__file__).parents[2] / "data" / "alice.txt"
SHAPES = [(576, 960, False), (1536, 576, True), (100, 30, True)]
KINDS = [Int8Linear, Int4Linear]
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="no bitsandbytes here")


class Model(nn.Module):
    """Two projections that are siblings, one that is not, and a head."""

    device = CPU
    dtype = torch.float32
    config = LlamaConfig()

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 64)
        self.gate_proj = nn.Linear(64, 128, bias=False)
        self.up_proj = nn.Linear(64, 128, bias=False)
        self.down_proj = nn.Linear(128, 64)
        self.head = nn.Linear(64, 256, bias=False)
        self.head.weight = self.embed.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    @property
    def base_model(self) -> nn.Module:
        return self

    def set_attn_implementation(self, name: str) -> None:
        """There is no attention."""

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        logits: Tensor = self.head(x + self.down_proj(self.gate_proj(x).sigmoid() * self.up_proj(x)))
        return logits


def relative_error(mine: Tensor, theirs: Tensor) -> float:
    return ((mine - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize(("features", "outputs", "bias"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_near_and_its_rows_keep_their_bits(
    kind: type[RowLinear], features: int, outputs: int, bias: bool
) -> None:
    error = 0.12 if kind is Int4Linear else 0.01
    linear = nn.Linear(features, outputs, bias=bias)
    layer = kind(linear)
    x = torch.randn(2, 5, features)
    assert layer(x).shape == (2, 5, outputs)
    assert relative_error(layer(x), linear(x)) < error
    assert rows_agree(layer, features, torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_weights_of_zeros_give_zeros(kind: type[RowLinear]) -> None:
    linear = nn.Linear(64, 32, bias=False)
    with torch.no_grad():
        linear.weight[:8] = 0
    layer = kind(linear)
    assert not layer(torch.zeros(3, 64)).any()
    assert not layer(torch.randn(3, 64))[:, :8].any()


def test_weights_that_came_from_blocks_of_32_come_out_unchanged() -> None:
    """As those of a Q4_1 GGUF: sixteen levels between a group's minimum and maximum."""
    torch.manual_seed(0)
    levels = torch.randint(0, 16, (32, 4, GROUP))
    levels[..., 0], levels[..., 1] = 0, 15
    step, low = torch.rand(32, 4, 1) * 0.01, -torch.rand(32, 4, 1) * 0.1
    weight = (levels * step + low).flatten(1)
    got = quantize_groups(weight, torch.rand(4 * GROUP) + 0.01)
    assert (got.levels == levels.flatten(1)).float().mean() > 0.95
    assert relative_error(dequantize_groups(got), weight) < 0.006  # bfloat16's rounding


def test_weights_that_were_never_in_blocks_come_nearer_than_with_levels_from_end_to_end() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 8 * GROUP)
    groups = weight.unflatten(1, (-1, GROUP))
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    step = (high - low) / 15
    from_end_to_end = (((groups - low) / step).round() * step + low).flatten(1)
    mine = relative_error(dequantize_groups(quantize_groups(weight, torch.ones(8 * GROUP))), weight)
    assert mine < 0.95 * relative_error(from_end_to_end, weight)


def test_weights_come_nearer_where_an_error_counts_more() -> None:
    torch.manual_seed(0)
    weight, counts = torch.randn(64, 8 * GROUP), 10 ** torch.randn(8 * GROUP)

    def error(feature_weights: Tensor) -> float:
        apart = dequantize_groups(quantize_groups(weight, feature_weights)) - weight
        return (apart.square() * counts).sum().item()

    assert error(counts) < 0.7 * error(torch.ones(8 * GROUP))


def test_features_that_fill_a_last_group_count_for_nothing() -> None:
    """A layer of 40 features rounds its last 8 as if they were a group of their own."""
    torch.manual_seed(0)
    linear = nn.Linear(40, 512, bias=False)
    x = torch.zeros(64, 40)
    x[:, 32:] = torch.randn(64, 8)
    assert relative_error(Int4Linear(linear)(x), linear(x)) < 0.042


def test_a_weight_is_quantised_some_rows_at_a_time_and_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, counts = torch.randn(7, 2 * GROUP), torch.rand(2 * GROUP)
    whole = quantize_groups(weight, counts)
    monkeypatch.setattr(quantize, "AT_ONCE", 3 * weight.shape[1])
    in_parts = quantize_groups(weight, counts)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(in_parts, whole, strict=True))


def test_the_kernel_reads_what_was_stored() -> None:
    linear = nn.Linear(64, 32, bias=False)
    layer = Int4Linear(linear)
    weight = dequantize_groups(quantize_groups(linear.weight.detach(), torch.ones(64)))
    x = torch.randn(5, 64)
    torch.testing.assert_close(layer(x), x @ weight.t(), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not has_threads(), reason="plain layers stay torch's here")
@pytest.mark.parametrize(
    ("quantization", "head"),
    [
        ("none", None),
        ("int8", Int8Linear),
        ("int4", Int8Linear),
        pytest.param("nf4", None, marks=needs_bitsandbytes),
    ],
)
def test_a_model_is_prepared(quantization: str, head: type[nn.Module] | None) -> None:
    torch.manual_seed(0)
    model = Model()
    tokens = torch.arange(12).view(3, 4)
    expected = model(tokens)
    prepare_linears(model, Bytes(), quantization, CPU)
    assert isinstance(model.head, head or FloatLinear)
    assert isinstance(model.gate_proj, FusedPart)
    assert relative_error(model(tokens), expected) < 0.05
    assert why_not_exact(model) is None


@needs_bitsandbytes
@pytest.mark.parametrize(("features", "outputs", "bias"), SHAPES[:2])
def test_the_layers_of_bitsandbytes(features: int, outputs: int, bias: bool) -> None:
    from samovar_server.engine import bnb

    linear = nn.Linear(features, outputs, bias=bias)
    x = torch.randn(3, 2, features)
    with torch.inference_mode():
        assert relative_error(bnb.Nf4Linear(linear)(x), linear(x)) < 0.15
        assert relative_error(bnb.int8_linear(linear)(x), linear(x)) < 0.02


@needs_bitsandbytes
def test_bitsandbytes_says_nothing_when_it_is_imported(capfd: pytest.CaptureFixture[str]) -> None:
    from samovar_server.engine import bnb

    bnb.Nf4Linear(nn.Linear(64, 64))
    assert "kernels" not in capfd.readouterr().err


@pytest.mark.real
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_real_model_keeps_its_sense_and_its_bits(quantization: str, demo_model: Path) -> None:
    def loaded(how: str) -> Any:
        spec = WorkerSpec(str(demo_model), "demo", "cpu", "float32", how, None, 16, 16, "secret")
        return load(spec, lambda fraction: None)

    plain, small = loaded("none"), loaded(quantization)
    assert small.in_slots
    assert why_not_exact(small.model) is None
    tokens = small.tokenizer(ALICE.read_text()).input_ids[:512]
    theirs, mine = (perplexity(Runner(one.model, 16, 1024), tokens) for one in (plain, small))
    assert mine < theirs * 1.08

    alone, crowd = Runner(small.model, 16, 1024), Runner(small.model, 16, 1024)
    first = alone.prefill(0, tokens[:40], 0)
    for slot in range(16):
        last = crowd.prefill(slot, tokens[: 40 if slot == 9 else 5 + slot], 0)
        if slot == 9:
            assert torch.equal(last, first)
    positions = [40 if slot == 9 else 5 + slot for slot in range(16)]
    lonely = alone.decode([0], [tokens[40]], [40])
    among = crowd.decode(list(range(16)), [tokens[40]] * 16, positions)
    assert torch.equal(among[9], lonely[0])


@pytest.mark.real
def test_int4_costs_weights_that_were_never_in_4_bits_little_too(demo_model: Path) -> None:
    """As those of nearly all models; the demo model's were, and are found again."""
    attention.register()
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    model = AutoModelForCausalLM.from_pretrained(demo_model, attn_implementation=attention.NAME)
    model = model.float().eval().requires_grad_(False)
    tokens = tokenizer(ALICE.read_text()).input_ids[:1024]
    theirs = perplexity(Runner(model, 1, 1024), tokens)
    torch.manual_seed(0)
    for layer in model.model.layers:
        stretch_channels(layer, model.config)
    prepare_linears(model, tokenizer, "int4", CPU)
    # From one such model to another it is 5 to 11 % more; 18 to 26 % where all features count alike.
    assert perplexity(Runner(model, 1, 1024), tokens) < 1.12 * theirs


def perplexity(runner: Runner, tokens: list[int]) -> float:
    logits = runner.prefill(0, tokens, 0, every=True)
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:])).exp().item()
