"""Cards of embedding models: those of every version of sentence-transformers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from samovar_server.engine.embedding_card import makes_embeddings, read_card
from samovar_server.errors import LoadFailed

OLD = "sentence_transformers.models."
TRANSFORMER = ("", f"{OLD}Transformer")
POOLING = ("1_Pooling", f"{OLD}Pooling")
IDENTITY = "torch.nn.modules.linear.Identity"


def write(folder: Path, pooling: Any, *modules: tuple[str, str], at: str = "1_Pooling") -> Path:
    (folder / at).mkdir()
    (folder / at / "config.json").write_text(json.dumps(pooling))
    listed = [{"idx": n, "path": path, "type": kind} for n, (path, kind) in enumerate(modules)]
    if listed:
        (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def dense(folder: Path, **config: Any) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"activation_function": IDENTITY} | config))
    save_file({"linear.weight": torch.eye(4)[:2] * 3}, folder / "model.safetensors")


def test_only_a_card_makes_an_embedding_model(tmp_path: Path) -> None:
    assert not makes_embeddings(tmp_path)
    write(tmp_path, {"pooling_mode_mean_tokens": True})
    assert makes_embeddings(tmp_path)


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "include_prompt": True}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"embedding_dimension": 8, "pooling_mode": "lasttoken", "include_prompt": True}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_both_ways_to_say_how_states_are_pooled(tmp_path: Path, said: Any, pooling: str) -> None:
    assert read_card(write(tmp_path, said), "org/m").pooling == pooling


def test_modules_have_other_names_in_other_versions(tmp_path: Path) -> None:
    new = "sentence_transformers.base.modules."
    modules = [
        ("", f"{new}transformer.Transformer"),
        ("own_name", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
        ("3_Dense", f"{new}dense.Dense"),
        ("4_Normalize", f"{new}normalize.Normalize"),
    ]
    write(tmp_path, {"pooling_mode": "mean"}, *modules, at="own_name")
    dense(tmp_path / "3_Dense")
    assert makes_embeddings(tmp_path)
    card = read_card(tmp_path, "org/m")
    vector = torch.tensor([3.0, 4.0, 1.0, 1.0])
    for stage in card.stages:
        vector = stage(vector)
    torch.testing.assert_close(vector, torch.tensor([0.6, 0.8]))
    assert card.width == 2


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode": ["mean", "max"]}, "mean and max"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean.* and .*cls"),
        ({}, "nothing"),
    ],
)
def test_pooling_that_is_not_supported_is_refused_by_name(tmp_path: Path, said: Any, named: str) -> None:
    with pytest.raises(LoadFailed, match=f"org/m pools its vectors by .*{named}"):
        read_card(write(tmp_path, said), "org/m")


@pytest.mark.parametrize(
    ("modules", "named"),
    [
        ([TRANSFORMER, POOLING, ("2_LSTM", f"{OLD}LSTM")], "LSTM"),
        ([("", f"{OLD}WordEmbeddings"), POOLING], "WordEmbeddings"),
        ([("0_Transformer", f"{OLD}Transformer"), POOLING], "own folder"),
        ([TRANSFORMER, POOLING, ("../elsewhere", f"{OLD}Dense")], "elsewhere"),
        ([TRANSFORMER, POOLING, ("2_Dense", f"{OLD}Dense")], "2_Dense"),
    ],
)
def test_modules_that_would_change_the_vector_are_refused_not_left_out(
    tmp_path: Path, modules: list[tuple[str, str]], named: str
) -> None:
    write(tmp_path, {"pooling_mode_mean_tokens": True}, *modules)
    with pytest.raises(LoadFailed, match=named):
        read_card(tmp_path, "org/m")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_residual": True}, "use_residual"),
        ({"module_input_name": "token_embeddings"}, "token_embeddings"),
        ({"activation_function": "os.system"}, "os.system"),
        ({"activation_function": "torch.nn.modules.activation.Hardtanh"}, "Hardtanh"),
    ],
)
def test_dense_layers_of_other_kinds_are_refused(tmp_path: Path, config: Any, named: str) -> None:
    write(tmp_path, {"pooling_mode": "mean"}, TRANSFORMER, POOLING, ("2_Dense", f"{OLD}Dense"))
    dense(tmp_path / "2_Dense", **config)
    with pytest.raises(LoadFailed, match=named):
        read_card(tmp_path, "org/m")


def test_texts_that_are_to_become_chat_messages_are_refused(tmp_path: Path) -> None:
    """sentence-transformers 6 says so of models that have a chat template."""
    write(tmp_path, {"pooling_mode": "lasttoken"}, TRANSFORMER, POOLING)
    said = tmp_path / "sentence_bert_config.json"
    said.write_text(json.dumps({"modality_config": {"text": {"method": "forward"}}}))
    assert read_card(tmp_path, "org/m").longest is None
    said.write_text(json.dumps({"modality_config": {"text": {}, "message": {"format": "flat"}}}))
    with pytest.raises(LoadFailed, match="chat message"):
        read_card(tmp_path, "org/m")


@pytest.mark.parametrize("text", ["{", "3"])
def test_a_torn_card_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"pooling_mode": "mean"})
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(LoadFailed, match=r"modules\.json"):
        makes_embeddings(tmp_path)
