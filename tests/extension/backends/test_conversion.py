"""GGUF turned into safetensors, by a stand-in for the process that does it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from samovar_server.backends import conversion
from samovar_server.backends.conversion import convert
from samovar_server.backends.transformers import TransformersBackend
from samovar_server.errors import LoadFailed
from samovar_server.inventory.conversions import conversion_of
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.options import LoadOptions, LoadProgress
from tests.fakes.gguf import resolved, write_gguf
from tests.fakes.models import FAKE_WORKER
from tests.processes import wait_for_end

MAKE = """
import sys, pathlib
file, folder = map(pathlib.Path, sys.argv[1:])
folder.mkdir(parents=True)
(folder / "config.json").write_text("{}")
(folder / "model.safetensors").write_text(str(file.stat().st_size))
"""


@pytest.fixture
def model(tmp_path: Path) -> ResolvedModel:
    return resolved(write_gguf(tmp_path / "m.Q4_1.gguf"))


def run(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(conversion, "COMMAND", (sys.executable, "-c", code))


async def test_it_is_done_once_for_a_file(
    model: ResolvedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, MAKE)
    steps: list[LoadProgress] = []
    await convert(model, tmp_path / "out", steps.append)
    folder = conversion_of(model.path, tmp_path / "out")
    assert (folder / "model.safetensors").read_text() == str(model.path.stat().st_size)
    assert [step.phase for step in steps] == ["converting"]
    run(monkeypatch, "raise SystemExit(1)")
    await convert(model, tmp_path / "out", steps.append)
    assert len(steps) == 1
    write_gguf(model.path, elements=1280)
    assert conversion_of(model.path, tmp_path / "out") != folder


async def test_the_engine_loads_what_was_made(model: ResolvedModel, tmp_path: Path) -> None:
    backend = TransformersBackend(command=FAKE_WORKER, slots=2, max_queue=2, conversions=tmp_path / "out")
    plan = backend.plan(model, LoadOptions(), {"cpu": 10**12})
    assert plan.memory.weights_bytes == 640 * 4
    assert plan.memory.kv_bytes_per_token == 4 * 2 * 32 * 4
    assert backend.spec(plan, "s").model_path == str(conversion_of(model.path, tmp_path / "out"))
    assert plan.identity == str(model.path)


async def test_a_failure_is_told_by_its_reason(
    model: ResolvedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "print('no such architecture'); raise SystemExit(1)")
    with pytest.raises(LoadFailed, match=r"could not be turned into safetensors: no such architecture\."):
        await convert(model, tmp_path, lambda step: None)


async def test_a_load_that_is_given_up_ends_the_conversion(
    model: ResolvedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pid")
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    run(monkeypatch, code)
    task = asyncio.create_task(convert(model, tmp_path, lambda step: None))
    pid = int(await asyncio.to_thread((tmp_path / "pid").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_for_end(pid)
