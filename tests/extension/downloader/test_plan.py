from __future__ import annotations

import pytest

from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.plan import Choice, Repo, RepoFile, choose, quantizations

SAFETENSORS = ("config.json", "tokenizer.json", "model.safetensors", "LICENSE", "README.md")
PICKLES = ("pytorch_model.bin", "model.pt", "training_args.bin", "modeling_x.py", "tf_model.h5")
GGUF = ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "m.IQ2_XS.gguf", "mmproj-F16.gguf", "LICENSE", "README.md")
SHARDED = tuple(f"big/m-Q6_K-{n:05}-of-00003.gguf" for n in (1, 2, 3))


def repo(*names: str) -> Repo:
    files = tuple(RepoFile(name, len(name), "0" * 64) for name in names)
    return Repo("org/m", "main", "c" * 40, files)


def chosen(choice: Choice, *names: str) -> set[str]:
    return {file.path for file in choose(repo(*names), choice).files}


def code(choice: Choice, *names: str) -> tuple[str, str]:
    with pytest.raises(PullFailed) as caught:
        choose(repo(*names), choice)
    return caught.value.code, caught.value.message


def test_by_default_what_the_loader_reads() -> None:
    names = chosen(Choice(), *SAFETENSORS, *PICKLES, "onnx/model.safetensors", "consolidated.safetensors")
    assert names == {"config.json", "tokenizer.json", "model.safetensors", "LICENSE", "README.md"}


def test_an_embedding_model_comes_with_its_card() -> None:
    card = {
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    }
    others = ("2_Dense/pytorch_model.bin", "onnx/config.json", "a/1_Pooling/config.json")
    assert chosen(Choice(), *SAFETENSORS, *card, *others) == {*SAFETENSORS, *card}


def test_the_same_weights_are_not_fetched_twice() -> None:
    shards = [f"model-{n:05}-of-00002.safetensors" for n in (1, 2)]
    index = "model.safetensors.index.json"
    assert chosen(Choice(), "config.json", "model.safetensors", index, *shards) == {
        "config.json",
        "model.safetensors",
    }
    assert chosen(Choice(), "config.json", index, *shards) == {"config.json", index, *shards}


def test_the_weights_come_last() -> None:
    plan = choose(repo("model.safetensors", "config.json", "tokenizer.json"), Choice())
    assert plan.files[-1].path == "model.safetensors"
    assert plan.total_bytes == sum(file.size for file in plan.files)


@pytest.mark.parametrize("tag", ["Q4_K_M", "q4_k_m"])
def test_a_gguf_file_by_its_tag(tag: str) -> None:
    assert chosen(Choice(quantization=tag), *GGUF, *SHARDED) == {"m-Q4_K_M.gguf", "LICENSE", "README.md"}


def test_a_gguf_model_in_parts_comes_whole() -> None:
    assert chosen(Choice(quantization="Q6_K"), *GGUF, *SHARDED) == {*SHARDED, "LICENSE", "README.md"}
    what, message = code(Choice(quantization="Q6_K"), *GGUF, *SHARDED[:2])
    assert what == "incomplete"
    assert SHARDED[2] in message


def test_a_tag_that_is_not_there_names_those_that_are() -> None:
    what, message = code(Choice(quantization="Q3_K_S"), *GGUF)
    assert what == "no_such_quantization"
    assert all(tag in message for tag in ("Q4_K_M", "Q8_0", "IQ2_XS"))


def test_of_several_gguf_models_one_must_be_named() -> None:
    what, message = code(Choice(), *GGUF)
    assert what == "quantization_needed"
    assert "Q4_K_M" in message
    assert chosen(Choice(), "m-Q8_0.gguf", "x.csv") == {"m-Q8_0.gguf"}


def test_tags_by_size() -> None:
    files = [RepoFile("a.Q8_0.gguf", 8, ""), RepoFile("a.Q4_0.gguf", 4, ""), RepoFile("a.gguf", 1, "")]
    assert quantizations(files) == ("Q4_0", "Q8_0")


def test_include_and_exclude() -> None:
    names = (*SAFETENSORS, *PICKLES, "onnx/model.safetensors")
    assert chosen(Choice(include=("*.json",)), *names) == {"config.json", "tokenizer.json"}
    assert chosen(Choice(exclude=("tokenizer*", "LICENSE", "*.md")), *names) == {
        "config.json",
        "model.safetensors",
    }
    assert chosen(Choice(include=("onnx/*",)), *names) == {"onnx/model.safetensors"}
    assert code(Choice(include=("*.xyz",)), *names)[0] == "no_files"


def test_pickles_and_code_are_never_fetched() -> None:
    plan = choose(repo(*SAFETENSORS, *PICKLES), Choice(include=("*",)))
    dangerous = {"pytorch_model.bin", "model.pt", "training_args.bin", "modeling_x.py"}
    assert {file.path for file in plan.files} == {*SAFETENSORS, "tf_model.h5"}
    assert set(plan.refused) == dangerous
    assert code(Choice(include=("*.bin",)), *PICKLES)[0] == "unsafe_files"
    assert code(Choice(), *PICKLES)[0] == "no_safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "a/../../evil.json",
        "/etc/evil.json",
        "a//evil.json",
        "..\\evil.json",
        "c:evil.json",
        "a/./evil.json",
        "evil\n.json",
        "a" * 300 + ".json",
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(name: str) -> None:
    assert code(Choice(include=("*.json",)), "config.json", name)[0] == "unsafe_name"
