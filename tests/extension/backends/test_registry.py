"""Which backend loads a model when nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from samovar_server.backends import llamacpp
from samovar_server.backends.llamacpp import LlamaCppBackend
from samovar_server.backends.registry import Backends
from samovar_server.backends.transformers import TransformersBackend
from samovar_server.errors import BackendUnavailable, InvalidRequest
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.options import LoadOptions
from tests.fakes.gguf import resolved, write_gguf
from tests.fakes.models import FAKE_WORKER, write_model

ANY = LoadOptions()
ROOM = {"cpu": 10**12}


@pytest.fixture
def gguf(tmp_path: Path) -> ResolvedModel:
    return resolved(write_gguf(tmp_path / "q/m.Q4_1.gguf"))


@pytest.fixture
def safetensors(tmp_path: Path) -> ResolvedModel:
    return ResolvedModel("m", "m", write_model(tmp_path, "m"), "folder", None)


@pytest.fixture
def backends(tmp_path: Path) -> Backends:
    own = TransformersBackend(command=FAKE_WORKER, slots=2, max_queue=2, conversions=tmp_path / "converted")
    return Backends([LlamaCppBackend(slots=2), own])


@pytest.fixture
def without_llamacpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "find_spec", lambda name: None)


def chosen(backends: Backends, model: ResolvedModel, options: LoadOptions = ANY) -> tuple[str, str]:
    plan = backends.plan(model, options, ROOM)
    return plan.backend, plan.reason


def test_each_format_has_its_engine(
    backends: Backends, gguf: ResolvedModel, safetensors: ResolvedModel
) -> None:
    assert chosen(backends, gguf) == ("llamacpp", "llama.cpp is what loads a GGUF file")
    assert chosen(backends, safetensors) == ("transformers", "samovar's own engine is what loads safetensors")


@pytest.mark.usefixtures("without_llamacpp")
def test_without_llama_cpp_a_gguf_file_is_for_transformers(backends: Backends, gguf: ResolvedModel) -> None:
    assert chosen(backends, gguf) == (
        "transformers",
        "llama.cpp, which would load a GGUF file, is not installed",
    )
    with pytest.raises(BackendUnavailable, match="xllamacpp is not installed"):
        backends.plan(gguf, LoadOptions(backend="llamacpp"), ROOM)


def test_an_option_that_only_one_engine_takes_chooses_it(backends: Backends, gguf: ResolvedModel) -> None:
    assert chosen(backends, gguf, LoadOptions(quantization="int4")) == (
        "transformers",
        "samovar's own engine is what takes quantization",
    )
    assert chosen(backends, gguf, LoadOptions(n_ctx=100))[0] == "llamacpp"


def test_who_is_asked_for_is_taken_or_refused(
    backends: Backends, gguf: ResolvedModel, safetensors: ResolvedModel
) -> None:
    assert chosen(backends, gguf, LoadOptions(backend="transformers")) == ("transformers", "it was asked for")
    with pytest.raises(
        InvalidRequest, match=r"llamacpp does not load m\. Choose one of: auto, transformers"
    ) as it:
        backends.plan(safetensors, LoadOptions(backend="llamacpp"), ROOM)
    assert it.value.param == "backend"
    with pytest.raises(InvalidRequest, match="dtype: backend llamacpp"):
        backends.plan(gguf, LoadOptions(backend="llamacpp", dtype="float16"), ROOM)


def test_an_option_that_no_engine_takes_is_refused_by_the_best(
    backends: Backends, safetensors: ResolvedModel
) -> None:
    with pytest.raises(InvalidRequest, match="n_gpu_layers: backend transformers") as caught:
        backends.plan(safetensors, LoadOptions(n_gpu_layers=3), ROOM)
    assert caught.value.param == "n_gpu_layers"


def test_a_gguf_model_in_parts_is_for_llama_cpp_only(
    backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [write_gguf(tmp_path / f"m-0000{number}-of-00002.gguf") for number in (1, 2)]
    assert chosen(backends, resolved(*parts))[0] == "llamacpp"
    monkeypatch.setattr(llamacpp, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="xllamacpp"):
        backends.plan(resolved(*parts), LoadOptions(), ROOM)
