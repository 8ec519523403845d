"""Vectors of a tiny encoder and a tiny decoder, against plain transformers and the formula on the card."""

from __future__ import annotations

import base64
import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from samovar_server.engine.embedding import Embedder
from samovar_server.errors import LoadFailed
from samovar_server.loader.spec import WorkerSpec
from samovar_server.protocol.embeddings import embedding_answer

WORDS = ["[UNK]", "tea", "samovar", "coffee", "hot", "is", "the"]
TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}


def write(folder: Path, model: Any, mode: str, modules: Any = None) -> WorkerSpec:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    model.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, mode: True, "pooling_mode_max_tokens": False})
    )
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules))
    return WorkerSpec(str(folder), "org/tiny", "cpu", "float32", "none", None, 1, 1, "secret")


def dense(folder: Path, weight: torch.Tensor, bias: torch.Tensor) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"activation_function": "torch.nn.modules.activation.Tanh"}')
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "model.safetensors")


def encoder() -> BertModel:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
        )
    )


def decoder() -> Qwen3Model:
    torch.manual_seed(0)
    return Qwen3Model(
        Qwen3Config(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=64,
        )
    )


def states(folder: Path, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        hidden: torch.Tensor = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]
    return hidden


@pytest.mark.parametrize(
    ("mode", "model", "pool"),
    [
        ("pooling_mode_mean_tokens", encoder, lambda hidden: hidden.mean(0)),
        ("pooling_mode_cls_token", encoder, lambda hidden: hidden[0]),
        ("pooling_mode_lasttoken", decoder, lambda hidden: hidden[-1]),
    ],
)
def test_vectors_are_pooled_as_the_card_says_and_normalised(
    tmp_path: Path, mode: str, model: Any, pool: Any
) -> None:
    embedder = Embedder.load(write(tmp_path, model(), mode, [TRANSFORMER, POOLING, NORMALIZE]))
    ids = [1, 5, 4]
    expected = torch.nn.functional.normalize(pool(states(tmp_path, ids)), dim=-1)
    torch.testing.assert_close(torch.tensor(embedder.embed(ids)), expected, atol=1e-5, rtol=1e-4)
    short = torch.nn.functional.normalize(pool(states(tmp_path, ids))[:8], dim=-1)
    torch.testing.assert_close(torch.tensor(embedder.embed(ids, 8)), short, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model", [encoder, decoder])
def test_vectors_keep_their_direction_in_int4(tmp_path: Path, model: Any) -> None:
    spec = write(tmp_path, model(), "pooling_mode_mean_tokens", [TRANSFORMER, POOLING, NORMALIZE])
    whole, small = (Embedder.load(replace(spec, quantization=how)) for how in ("none", "int4"))
    ids = [1, 5, 4]
    mine, theirs = torch.tensor(small.embed(ids)), torch.tensor(whole.embed(ids))
    assert mine @ theirs > 0.98
    assert not torch.equal(mine, theirs)


def test_a_card_without_normalisation_is_obeyed(tmp_path: Path) -> None:
    embedder = Embedder.load(write(tmp_path, encoder(), "pooling_mode_mean_tokens", [TRANSFORMER, POOLING]))
    vector = torch.tensor(embedder.embed([1, 2]))
    torch.testing.assert_close(vector, states(tmp_path, [1, 2]).mean(0), atol=1e-5, rtol=1e-4)
    assert abs(float(vector.norm()) - 1) > 0.01


def test_layers_behind_the_pooling_are_computed_and_set_the_width(tmp_path: Path) -> None:
    modules = [
        TRANSFORMER,
        POOLING,
        {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    spec = write(tmp_path, encoder(), "pooling_mode_mean_tokens", modules)
    weight, bias = torch.randn(8, 32), torch.randn(8)
    dense(tmp_path / "2_Dense", weight, bias)
    embedder = Embedder.load(spec)
    assert embedder.width == 8
    expected = torch.tanh(weight @ states(tmp_path, [1, 5]).mean(0) + bias)
    torch.testing.assert_close(torch.tensor(embedder.embed([1, 5])), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_that_would_get_a_random_decoder_is_refused(tmp_path: Path) -> None:
    model = T5EncoderModel(T5Config(vocab_size=len(WORDS), d_model=32, d_ff=64, num_layers=1, num_heads=2))
    with pytest.raises(LoadFailed, match="org/tiny lacks weights of T5Model: decoder"):
        Embedder.load(write(tmp_path, model, "pooling_mode_mean_tokens"))


def test_the_pooler_which_no_vector_needs_may_lack(tmp_path: Path) -> None:
    spec = write(tmp_path, BertModel(encoder().config, add_pooling_layer=False), "pooling_mode_mean_tokens")
    assert len(Embedder.load(spec).embed([1, 2])) == 32


def test_the_longest_input_is_the_cards(tmp_path: Path) -> None:
    spec = write(tmp_path, encoder(), "pooling_mode_mean_tokens")
    assert Embedder.load(spec).context_length == 512
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256, "do_lower_case": true}')
    as_the_config_says = replace(spec, context_length=512)
    embedder = Embedder.load(as_the_config_says)
    assert embedder.context_length == 256
    assert Embedder.load(replace(spec, context_length=100)).context_length == 100
    assert embedder.tokenize("Hot TEA") == embedder.tokenize("hot tea")


def test_base64_holds_the_same_numbers() -> None:
    answer = embedding_answer("m", [[0.5, -1.25]], 3, "base64")
    assert array("f", base64.b64decode(answer["data"][0]["embedding"])).tolist() == [0.5, -1.25]
    assert embedding_answer("m", [[0.5, -1.25]], 3, "float")["data"][0]["embedding"] == [0.5, -1.25]
