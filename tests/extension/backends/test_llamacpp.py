from __future__ import annotations

from pathlib import Path

import pytest

from samovar_server.backends import llamacpp
from samovar_server.backends.base import Backend, refuse_fields, refuse_options
from samovar_server.backends.llamacpp import PROCESS_BYTES, LlamaCppBackend
from samovar_server.errors import BackendUnavailable, InvalidRequest
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.options import LoadOptions
from tests.fakes.gguf import VOCABULARY, resolved, write_gguf

BACKEND = LlamaCppBackend(slots=4)
ROOM = {"cpu": 10**12, "cuda:0": 10**12}


@pytest.fixture
def model(tmp_path: Path) -> ResolvedModel:
    return resolved(write_gguf(tmp_path / "m.Q4_1.gguf"))


def test_it_is_a_backend_for_gguf(model: ResolvedModel, tmp_path: Path) -> None:
    backend: Backend = BACKEND
    assert backend.takes(model)
    assert not backend.takes(ResolvedModel("m", "m", tmp_path, "folder", None))


def test_a_plan_counts_file_cache_and_process(model: ResolvedModel) -> None:
    plan = BACKEND.plan(model, LoadOptions(), ROOM)
    assert (plan.device, plan.quantization, plan.memory.context_length) == ("cpu", "Q4_1", 256)
    assert plan.memory.weights_bytes == model.path.stat().st_size
    assert plan.memory.kv_bytes_per_token == 4 * 2 * 32 * 2
    assert plan.memory.overhead_bytes == PROCESS_BYTES + 512 * VOCABULARY * 4
    spec = BACKEND.spec(plan, "s3cret")
    assert (spec.context_length, spec.slots, spec.n_gpu_layers) == (256, 4, 0)
    assert "s3cret" not in repr(spec)


def test_slots_are_halved_where_memory_is_short(model: ResolvedModel) -> None:
    whole = BACKEND.plan(model, LoadOptions(), ROOM).memory.total_bytes
    assert BACKEND.plan(model, LoadOptions(), {"cpu": whole - 1}).memory.slots == 2
    assert BACKEND.plan(model, LoadOptions(), {"cpu": 1}).memory.slots == 1


@pytest.mark.parametrize("options", [LoadOptions(n_ctx=100), LoadOptions(context_length=100)])
def test_the_context_in_either_word(options: LoadOptions, model: ResolvedModel) -> None:
    plan = BACKEND.plan(model, options, ROOM)
    assert plan.memory.context_length == 100
    assert plan.satisfies(LoadOptions(context_length=100))
    assert plan.satisfies(LoadOptions(backend="llamacpp", n_ctx=100))
    assert not plan.satisfies(LoadOptions(n_ctx=101))


def test_a_context_beyond_the_models_is_refused_by_the_name_it_was_asked_by(model: ResolvedModel) -> None:
    for name in ("n_ctx", "context_length"):
        with pytest.raises(InvalidRequest, match="window has 256 tokens") as caught:
            BACKEND.plan(model, LoadOptions(**{name: 257}), ROOM)
        assert caught.value.param == name


@pytest.mark.parametrize(
    ("options", "device", "layers"),
    [
        (LoadOptions(n_gpu_layers=2), "cuda:0", 2),
        (LoadOptions(n_gpu_layers=-1), "cuda:0", -1),
        (LoadOptions(device="cuda"), "cuda:0", -1),
        (LoadOptions(n_gpu_layers=0), "cpu", 0),
        (LoadOptions(), "cpu", 0),
    ],
)
def test_layers_on_a_gpu(options: LoadOptions, device: str, layers: int, model: ResolvedModel) -> None:
    plan = BACKEND.plan(model, options, ROOM)
    assert (plan.device, BACKEND.spec(plan, "s").n_gpu_layers) == (device, layers)
    if layers == 2:  # of 4, and the output
        assert plan.memory.weights_bytes == int(model.path.stat().st_size * 0.4)
        assert "n_gpu_layers=2" in plan.cache_key
        assert not plan.satisfies(LoadOptions(n_gpu_layers=3))


def test_layers_on_a_gpu_need_one(model: ResolvedModel) -> None:
    with pytest.raises(InvalidRequest, match="there is no 'cuda' here"):
        BACKEND.plan(model, LoadOptions(n_gpu_layers=2), {"cpu": 1})
    with pytest.raises(InvalidRequest, match="leaves no layer for a GPU") as caught:
        BACKEND.plan(model, LoadOptions(n_gpu_layers=2, device="cpu"), ROOM)
    assert caught.value.param == "n_gpu_layers"


def test_what_it_does_not_honour_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="dtype: backend llamacpp") as caught:
        refuse_options(BACKEND, LoadOptions(dtype="float16"))
    assert caught.value.param == "dtype"
    refuse_options(BACKEND, LoadOptions(n_ctx=5, device="cpu"))
    for field in ("tools", "repetition_penalty", "exact", "min_tokens"):
        with pytest.raises(InvalidRequest, match=f"{field}: backend llamacpp") as caught:
            refuse_fields(BACKEND, "/v1/chat/completions", frozenset({"messages", field}))
        assert caught.value.param == field
    refuse_fields(BACKEND, "/v1/chat/completions", frozenset({"messages", "ttl", "n_ctx", "top_k", "stream"}))
    with pytest.raises(InvalidRequest, match="does not serve /v1/embeddings"):
        refuse_fields(BACKEND, "/v1/embeddings", frozenset())


def test_a_missing_library_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'samovar\[llamacpp\]'"):
        BACKEND.check()
