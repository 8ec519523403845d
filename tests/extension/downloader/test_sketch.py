"""A model that is still on the Hub, as an estimate sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from samovar_server.downloader import sketch as sketch_module
from samovar_server.downloader.failures import PullFailed, SourceUnavailable
from samovar_server.downloader.sketch import sketch
from samovar_server.loader.estimate import read_shape, weights_bytes
from samovar_server.loader.gguf import read_header
from tests.fakes.fake_hub import FakeHub
from tests.fakes.folders import COMMIT
from tests.fakes.gguf import write_gguf
from tests.fakes.models import CONFIG, safetensors

TENSORS = {"model.embed_tokens.weight": ("BF16", [1000, 64]), "model.norm.weight": ("BF16", [64])}


def test_an_estimate_reads_the_same_as_after_the_download(fake_hub: FakeHub) -> None:
    fake_hub.files = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": safetensors(TENSORS)}
    with sketch("org/tiny", None) as drawn:
        folder = drawn.folder
        assert (drawn.commit, drawn.gguf) == (COMMIT, ())
        assert weights_bytes(folder, "float32") == 1001 * 64 * 4
        assert read_shape(folder).layers == CONFIG["num_hidden_layers"]
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        assert size < 1000  # headers only
    assert not folder.exists()


def test_a_model_in_several_files(fake_hub: FakeHub) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    fake_hub.files = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{name: safetensors({"w": ("F32", [100])}) for name in names},
    }
    with sketch("org/tiny", "main") as drawn:
        assert weights_bytes(drawn.folder, "float32") == 800


def test_without_safetensors_there_is_nothing_to_estimate(fake_hub: FakeHub) -> None:
    fake_hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(PullFailed, match="neither safetensors weights"), sketch("org/tiny", None):
        raise AssertionError("never")


def test_offline_is_said_plainly(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceUnavailable, match="HF_HUB_OFFLINE"), sketch("org/tiny", None):
        raise AssertionError("never")


@pytest.fixture
def quantized(fake_hub: FakeHub, tmp_path: Path) -> dict[str, Path]:
    """GGUF files on the Hub: one whole, one in two parts."""
    names = ("m-Q4_0.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf")
    files = {name: write_gguf(tmp_path / "gguf" / name, elements=64 * 5000) for name in names}
    fake_hub.files = {name: file.read_bytes() for name, file in files.items()}
    return files


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("Q4_0", ["m-Q4_0.gguf"]),
        ("m-Q4_0.gguf", ["m-Q4_0.gguf"]),
        ("q8_0", ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]),
    ],
)
def test_gguf_is_judged_as_after_the_download(
    asked: str,
    names: list[str],
    quantized: dict[str, Path],
    fake_hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = (64, 1024, 20_000)
    monkeypatch.setattr(sketch_module, "HEADER_BYTES", steps)
    with sketch("org/tiny", None, asked) as drawn:
        assert [file.name for file in drawn.gguf] == names
        assert read_header(drawn.gguf) == read_header([quantized[name] for name in names])
        assert [file.stat().st_size for file in drawn.gguf] == [
            quantized[name].stat().st_size for name in names
        ]
        allocated = sum(file.stat().st_blocks * 512 for file in drawn.gguf)
        assert allocated < len(names) * 50_000 < sum(file.stat().st_size for file in drawn.gguf)
    assert [start for name, start in fake_hub.ranges if name == names[0]] == [0, 64, 1024]


def test_a_hub_without_ranges_is_read_no_further_than_needed(
    quantized: dict[str, Path], fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketch_module, "HEADER_BYTES", (1024, 20_000))
    fake_hub.knows_range = False
    with sketch("org/tiny", None, "Q4_0") as drawn:
        assert read_header(drawn.gguf) == read_header([quantized["m-Q4_0.gguf"]])


@pytest.mark.parametrize(
    ("asked", "code"),
    [(None, "quantization_needed"), ("Q2_K", "no_such_quantization"), ("x.gguf", "no_files")],
)
def test_which_gguf_is_meant_must_be_said(
    asked: str | None, code: str, quantized: dict[str, Path], fake_hub: FakeHub
) -> None:
    with pytest.raises(PullFailed) as caught, sketch("org/tiny", None, asked):
        raise AssertionError("never")
    assert caught.value.code == code
    assert fake_hub.fetched == []
