from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from samovar_server.errors import InvalidRequest, LoadFailed
from samovar_server.loader.estimate import (
    MIB,
    MemoryEstimate,
    ModelShape,
    choose_context,
    estimate,
    read_shape,
    weights_bytes,
)
from tests.fakes.models import safetensors, write_model

SMOLLM2_135M = ModelShape(dtype="bfloat16", max_context=8192, layers=30, kv_width=3 * 64, vocabulary=49152)


def test_the_shape_is_read_from_the_config(tmp_path: Path) -> None:
    assert read_shape(write_model(tmp_path, "m")) == ModelShape("bfloat16", 256, 2, 2 * 16, 1000)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (
            {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257},
            ModelShape(None, 1024, 12, 768, 50257),
        ),
        (
            {"head_dim": 128, "num_attention_heads": 16, "hidden_size": 1024, "num_key_value_heads": 8},
            ModelShape(None, None, 0, 1024, 0),
        ),
        (
            {"vocab_size": 5, "text_config": {"vocab_size": 7, "num_hidden_layers": 3, "dtype": "float16"}},
            ModelShape("float16", None, 3, 0, 7),
        ),
        ({"torch_dtype": "bfloat16", "num_hidden_layers": "many"}, ModelShape("bfloat16", None, 0, 0, 0)),
    ],
)
def test_the_families_name_their_fields_differently(
    tmp_path: Path, config: dict[str, object], shape: ModelShape
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(tmp_path) == shape


def test_weights_are_counted_in_the_dtype_they_are_loaded_in(tmp_path: Path) -> None:
    model = write_model(tmp_path, "m")
    assert weights_bytes(model, "float32") == 1001 * 64 * 4
    assert weights_bytes(model, "bfloat16") == 1001 * 64 * 2


@pytest.mark.parametrize(("quantization", "bits"), [("none", 32), ("int8", 8), ("int4", 5), ("nf4", 4.5)])
def test_linear_layers_are_counted_as_quantised(tmp_path: Path, quantization: str, bits: float) -> None:
    tensors = {"model.embed_tokens.weight": ("BF16", [10, 64]), "q_proj.weight": ("BF16", [64, 64])}
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors | {"q_proj.bias": ("BF16", [64])}))
    assert weights_bytes(tmp_path, "float32", quantization) == (10 * 64 + 64) * 4 + 64 * 64 * bits / 8


def test_weights_that_are_no_floats_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors({"a": ("I8", [10]), "b": ("F16", [10])}))
    assert weights_bytes(tmp_path, "float32") == 10 + 40


def test_only_the_files_of_the_index_are_counted(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(safetensors({"w": ("F32", [100])}))
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert weights_bytes(tmp_path, "float32") == 800


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, b"\xff" * 16, (5).to_bytes(8, "little") + b"not j", (2).to_bytes(8, "little") + b"[]"],
)
def test_damaged_weights_are_named_without_their_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(LoadFailed, match=r"model\.safetensors of .* Get the model again") as caught:
        weights_bytes(tmp_path, "float32")
    assert str(tmp_path) not in caught.value.message


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(LoadFailed, match="convert the model to safetensors"):
        weights_bytes(tmp_path, "float32")


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_damaged_config_is_named_without_its_path(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(LoadFailed, match=r"config\.json of") as caught:
        read_shape(tmp_path)
    assert os.sep + "config.json" not in caught.value.message


def test_in_main_memory_one_request_counts_at_full_length_and_the_others_as_usual() -> None:
    memory = estimate(SMOLLM2_135M, 538_060_416, device="cpu", dtype="float32", context_length=8192, slots=16)
    assert memory.kv_bytes_per_token == 2 * 30 * 192 * 4
    assert memory.kv_tokens == 8192 + 15 * 1024
    assert memory.overhead_bytes == 512 * MIB + 16 * 49152 * 4
    assert memory.total_bytes == 538_060_416 + 46_080 * (8192 + 15 * 1024) + memory.overhead_bytes
    short = estimate(SMOLLM2_135M, 0, device="cpu", dtype="float32", context_length=100, slots=16)
    assert short.kv_tokens == 1600


def test_on_a_gpu_every_slot_counts_at_full_length() -> None:
    memory = estimate(SMOLLM2_135M, 0, device="cuda:0", dtype="bfloat16", context_length=8192, slots=16)
    assert memory.kv_tokens == 16 * 8192


def test_what_is_stated_is_what_counts() -> None:
    memory = estimate(SMOLLM2_135M, 10**9, device="cpu", dtype="float32", context_length=8192, slots=16)
    assert replace(memory, stated_bytes=5).total_bytes == 5


def test_the_context_that_would_fit_fits_and_one_token_more_does_not() -> None:
    def one_request(context_length: int) -> MemoryEstimate:
        return estimate(
            SMOLLM2_135M, 10**8, device="cpu", dtype="float32", context_length=context_length, slots=1
        )

    room = one_request(1000).total_bytes + 5
    assert one_request(8192).context_within(room) == 1000
    assert one_request(1001).total_bytes > room
    assert one_request(500).context_within(room) == 500  # not more than was asked for
    assert one_request(8192).context_within(10**8) is None  # not even the weights fit


def test_weights_count_as_they_are_loaded_where_that_is_more() -> None:
    def total(context_length: int) -> int:
        return estimate(
            SMOLLM2_135M, 10**8, device="cpu", dtype="float32", context_length=context_length, slots=1,
            loading=5 * 10**8,
        ).total_bytes  # fmt: skip

    overhead = 512 * MIB + 49152 * 4
    assert total(100) == 5 * 10**8 + overhead
    assert total(100_000) == 10**8 + 46_080 * 100_000 + overhead


@pytest.mark.parametrize(("asked", "expected"), [(None, 8192), (100, 100), (8192, 8192)])
def test_the_context_is_what_was_asked_for_or_the_models_own(asked: int | None, expected: int) -> None:
    assert choose_context(SMOLLM2_135M, asked) == expected


def test_a_context_beyond_the_models_window_is_a_bad_request() -> None:
    with pytest.raises(InvalidRequest, match="8192 tokens") as caught:
        choose_context(SMOLLM2_135M, 8193)
    assert caught.value.param == "context_length"
