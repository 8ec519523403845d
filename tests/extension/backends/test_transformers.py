from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from samovar_server.backends import transformers as backend_module
from samovar_server.backends.base import Backend
from samovar_server.backends.devices import choose_device
from samovar_server.backends.transformers import (
    ENGINE_COMMAND,
    TransformersBackend,
    check_quantization,
    choose_dtype,
    fit_slots,
)
from samovar_server.errors import BackendUnavailable, InvalidRequest
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.estimate import ModelShape
from samovar_server.loader.options import LoadOptions, Quantization
from tests.fakes.models import write_model

GPUS = {"cpu": 10, "cuda:0": 5, "cuda:1": 9}


def model(folder: Path) -> ResolvedModel:
    return ResolvedModel("alias", "org/m", write_model(folder, "m"), "folder", None)


def test_it_is_a_backend() -> None:
    backend: Backend = TransformersBackend(slots=1, max_queue=1, conversions=Path("converted"))
    assert backend.command == ENGINE_COMMAND


@pytest.mark.parametrize(
    ("asked", "budgets", "cuda", "device"),
    [
        ("auto", {"cpu": 1}, False, "cpu"),
        ("auto", {"cpu": 1}, True, "cpu"),
        ("auto", GPUS, True, "cuda:1"),
        ("auto", GPUS, False, "cpu"),
        ("cpu", GPUS, True, "cpu"),
        ("cuda", GPUS, True, "cuda:1"),
        ("cuda:0", GPUS, True, "cuda:0"),
    ],
)
def test_the_device(asked: str, budgets: Mapping[str, int], cuda: bool, device: str) -> None:
    assert choose_device(asked, budgets, cuda=cuda) == device


@pytest.mark.parametrize(
    ("asked", "budgets", "cuda", "has"),
    [
        ("cuda", {"cpu": 1}, True, "here. Choose one of: auto, cpu."),
        ("cuda:2", GPUS, True, "Choose one of: auto, cpu, cuda:0, cuda:1."),
        ("cuda", GPUS, False, "a build for CPUs"),
    ],
)
def test_a_device_that_is_not_there(asked: str, budgets: Mapping[str, int], cuda: bool, has: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose_device(asked, budgets, cuda=cuda)
    assert caught.value.param == "device"
    assert has in caught.value.message


@pytest.mark.parametrize(
    ("asked", "device", "stored", "dtype"),
    [
        ("auto", "cpu", "bfloat16", "float32"),
        ("auto", "cuda:0", "float16", "float16"),
        ("auto", "cuda:0", "float32", "bfloat16"),
        ("auto", "cuda:0", None, "bfloat16"),
        ("float16", "cpu", "float32", "float16"),
    ],
)
def test_the_dtype(asked: str, device: str, stored: str | None, dtype: str) -> None:
    assert choose_dtype(asked, device, stored) == dtype


@pytest.mark.parametrize(("budget_gb", "slots"), [(3, 16), (2, 8), (1.6, 4), (1, 1)])
def test_slots_are_halved_until_they_fit(budget_gb: float, slots: int) -> None:
    smollm2 = ModelShape("bfloat16", 8192, 30, 192, 49152)
    memory = fit_slots(
        smollm2, 538_060_416, device="cpu", dtype="float32", context_length=8192, slots=16,
        budget=int(budget_gb * 10**9),
    )  # fmt: skip
    assert memory.slots == slots


def test_a_plan_makes_everything_definite(tmp_path: Path) -> None:
    backend = TransformersBackend(slots=16, max_queue=5, conversions=Path("converted"))
    plan = backend.plan(model(tmp_path), LoadOptions(), {"cpu": 10**12})
    assert (plan.backend, plan.device, plan.dtype, plan.quantization) == (
        "transformers", "cpu", "float32", "none",
    )  # fmt: skip
    assert (plan.memory.context_length, plan.memory.slots) == (256, 16)
    assert plan.satisfies(LoadOptions())
    spec = backend.spec(plan, "s3cret")
    assert (spec.model_name, spec.model_path) == ("org/m", str(tmp_path / "m"))
    assert (spec.context_length, spec.slots, spec.max_queue, spec.secret) == (256, 16, 5, "s3cret")


def test_what_is_asked_for_is_in_the_plan_and_in_the_estimate(tmp_path: Path) -> None:
    backend = TransformersBackend(slots=2, max_queue=5, conversions=Path("converted"))
    asked = LoadOptions(device="cpu", dtype="bfloat16", context_length=100)
    plan = backend.plan(model(tmp_path), asked, {"cpu": 10**12})
    assert (plan.dtype, plan.memory.context_length) == ("bfloat16", 100)
    auto = backend.plan(model(tmp_path), LoadOptions(), {"cpu": 10**12})
    assert plan.memory.total_bytes < auto.memory.total_bytes


@pytest.mark.parametrize(
    ("quantization", "device", "dtype", "has"),
    [
        ("int4", "cuda:0", "bfloat16", "int4 runs on the CPU only (device is cuda:0)"),
        ("int4", "cpu", "float16", "int4 on a CPU computes in float32 (dtype is float16)"),
        ("int8", "cpu", "bfloat16", "int8 on a CPU computes in float32"),
        ("nf4", "cpu", "bfloat16", "nf4 on a CPU computes in float32"),
    ],
)
def test_a_quantization_that_does_not_go_with_the_rest(
    quantization: str, device: str, dtype: str, has: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_quantization(quantization, device, dtype)
    assert caught.value.param == "quantization"
    assert has in caught.value.message


@pytest.mark.parametrize(
    ("quantization", "device", "dtype"),
    [
        ("none", "cpu", "float16"),
        ("int4", "cpu", "float32"),
        ("int8", "cuda:0", "float16"),
        ("nf4", "cuda:1", "bfloat16"),
    ],
)
def test_quantizations_that_go_with_the_rest(quantization: str, device: str, dtype: str) -> None:
    check_quantization(quantization, device, dtype)


def test_int4_takes_the_cpu_and_is_used_by_who_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "has_cuda_build", lambda: True)
    budgets = {"cpu": 10**12, "cuda:0": 10**12}
    plan = TransformersBackend(slots=2, max_queue=5, conversions=Path("converted")).plan(
        model(tmp_path), LoadOptions(quantization="int4"), budgets
    )
    assert (plan.device, plan.dtype, plan.quantization) == ("cpu", "float32", "int4")
    assert plan.satisfies(LoadOptions())
    assert not plan.satisfies(LoadOptions(quantization="none"))


@pytest.mark.parametrize(("quantization", "device"), [("nf4", "cpu"), ("int8", "cuda:0")])
def test_a_quantization_whose_library_is_missing(
    quantization: Quantization, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "has_cuda_build", lambda: True)
    monkeypatch.setattr(backend_module, "find_spec", lambda name: None)
    backend = TransformersBackend(slots=2, max_queue=5, conversions=Path("converted"))
    asked = LoadOptions(quantization=quantization, device=device)
    with pytest.raises(BackendUnavailable, match="pip install bitsandbytes"):
        backend.plan(model(tmp_path), asked, {"cpu": 10**12, "cuda:0": 10**12})


def test_missing_libraries_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"torch and transformers .* pip install 'samovar\[local\]'"):
        TransformersBackend(slots=1, max_queue=1, conversions=Path("converted")).check()


def test_another_command_brings_its_own_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "find_spec", lambda name: None)
    TransformersBackend(command=["other-python"], slots=1, max_queue=1, conversions=Path("converted")).check()


def test_planning_imports_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from samovar_server.backends.transformers import TransformersBackend
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.options import LoadOptions, Quantization
backend = TransformersBackend(slots=1, max_queue=1, conversions=Path("converted"))
model = ResolvedModel("m", "m", Path({str(model(tmp_path).path)!r}), "folder", None)
backend.plan(model, LoadOptions(), {{"cpu": 10**12}})
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
