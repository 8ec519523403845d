"""Why a load fails, as the worker tells it, with files and libraries that really fail so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar_server.engine import loading, worker
from samovar_server.errors import InsufficientMemory, LoadFailed, SamovarError
from samovar_server.loader.spec import WorkerSpec
from tests.extension.engine.tiny_models import write


@pytest.fixture
def spec(tmp_path: Path) -> WorkerSpec:
    return replace(write(tmp_path, "llama"), model_name="org/m")


def cause(spec: WorkerSpec) -> SamovarError:
    """What the worker would tell of this load."""
    try:
        loading.load(spec, lambda fraction: None)
    except SamovarError as error:
        return error
    except Exception as error:  # noqa: BLE001 - as the worker does
        return worker.cause_of(error, spec)
    raise AssertionError("it was loaded")


def without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return spoil


def with_config(**fields: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def torn(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def lacking(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        weights = {name: weight for name, weight in load_file(path).items() if name not in names}
        save_file(weights, path, metadata={"format": "pt"})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without("model.safetensors"), "no file named model.safetensors"),
        (without("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
        (
            lacking("model.norm.weight", "lm_head.weight"),
            "lacks weights of LlamaForCausalLM: lm_head.weight, model",
        ),
        (torn, "Expecting value"),
        (with_config(model_type="of-tomorrow"), "model type `of-tomorrow`"),
        (with_config(auto_map={"AutoConfig": "own.Config"}), "brings its own Python code"),
    ],
    ids=[
        "missing weights",
        "missing tokenizer",
        "some weights",
        "torn config",
        "unknown architecture",
        "remote code",
    ],
)
def test_the_cause_is_told_in_one_sentence(
    spoil: Callable[[Path], None], told: str, spec: WorkerSpec
) -> None:
    spoil(Path(spec.model_path))
    error = cause(spec)
    assert type(error) is LoadFailed
    assert told in error.message
    assert error.message.startswith("org/m ")
    assert "\n" not in error.message
    assert spec.model_path not in error.message
    assert len(error.message) < 400


def too_large() -> None:
    torch.empty(2**50, dtype=torch.uint8)


def no_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize("happens", [too_large, no_memory])
def test_memory_that_runs_out_is_no_fault_of_the_model(
    happens: Callable[[], None], spec: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_load_weights", lambda *arguments: happens())
    error = cause(spec)
    assert type(error) is InsufficientMemory
    assert error.message.startswith("Memory ran out while org/m was loaded.")
