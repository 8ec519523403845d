"""A model that is still on the Hub, as an estimate sees it."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants

from samovar_server.downloader.failures import PullFailed, SourceUnavailable
from samovar_server.downloader.sketch import sketch
from samovar_server.loader.estimate import read_shape, weights_bytes
from tests.fakes.fake_hub import FakeHub
from tests.fakes.folders import COMMIT
from tests.fakes.models import CONFIG, safetensors

TENSORS = {"model.embed_tokens.weight": ("BF16", [1000, 64]), "model.norm.weight": ("BF16", [64])}


def test_an_estimate_reads_the_same_as_after_the_download(fake_hub: FakeHub) -> None:
    fake_hub.files = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": safetensors(TENSORS)}
    with sketch("org/tiny", None) as (folder, commit):
        assert commit == COMMIT
        assert weights_bytes(folder, "float32") == 1001 * 64 * 4
        assert read_shape(folder).layers == CONFIG["num_hidden_layers"]
        drawn = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        assert drawn < 1000  # headers only
    assert not folder.exists()


def test_a_model_in_several_files(fake_hub: FakeHub) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    fake_hub.files = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{name: safetensors({"w": ("F32", [100])}) for name in names},
    }
    with sketch("org/tiny", "main") as (folder, _):
        assert weights_bytes(folder, "float32") == 800


def test_without_safetensors_there_is_nothing_to_estimate(fake_hub: FakeHub) -> None:
    fake_hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(PullFailed, match="with safetensors weights"), sketch("org/tiny", None):
        raise AssertionError("never")


def test_offline_is_said_plainly(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceUnavailable, match="HF_HUB_OFFLINE"), sketch("org/tiny", None):
        raise AssertionError("never")
