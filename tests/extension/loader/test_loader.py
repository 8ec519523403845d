"""From a plan to a running worker, with real processes of the fake worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samovar_server.backends.transformers import TransformersBackend
from samovar_server.errors import InsufficientMemory, LoadFailed, SamovarError
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.loader import Loader
from samovar_server.loader.options import LoadOptions, LoadProgress
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.process import WorkerProcess
from samovar_server.loader.spare import SpareWorker
from tests.fakes.models import FAKE_WORKER, FakeScript, write_model

BACKEND = TransformersBackend(command=FAKE_WORKER, slots=4, max_queue=4, conversions=Path("converted"))


def plan(folder: Path, script: FakeScript | None = None) -> LoadPlan:
    model = ResolvedModel("m", "m", write_model(folder, "m", script), "folder", None)
    return BACKEND.plan(model, LoadOptions(), {"cpu": 10**12})


def make(*, spare: bool = False, timeout: float = 60.0) -> Loader:
    return Loader([BACKEND], logging.getLogger("samovar"), load_timeout=timeout, spare=spare)


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WorkerProcess]]:
    """Every worker process that is started during a test."""
    processes: list[WorkerProcess] = []
    spawn = WorkerProcess.spawn

    def remember(*args: Any) -> WorkerProcess:
        processes.append(spawn(*args))
        return processes[-1]

    monkeypatch.setattr(WorkerProcess, "spawn", remember)
    yield processes
    assert not any(process.alive() for process in processes), "a process was left behind"


@pytest.mark.usefixtures("spawned")
async def test_a_load_ends_with_a_worker_that_has_told_its_address(tmp_path: Path) -> None:
    loader, steps = make(), list[LoadProgress]()
    worker = await loader.launch(plan(tmp_path), steps.append)
    assert worker.url == f"http://127.0.0.1:{worker.ready.port}"
    assert worker.secret not in repr(worker)
    assert worker.alive()
    assert [step.phase for step in steps][:3] == ["starting", "importing", "weights"]
    await worker.stop()
    assert "SIGKILL" in await worker.exited()
    await loader.stop()


async def test_each_worker_has_a_secret_of_its_own(tmp_path: Path, spawned: list[WorkerProcess]) -> None:
    loader = make()
    workers = [await loader.launch(plan(tmp_path), lambda step: None) for _ in range(2)]
    assert workers[0].secret != workers[1].secret
    for worker in workers:
        await worker.stop()


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (FakeScript(fail="the weights are damaged"), LoadFailed, "the weights are damaged"),
        (FakeScript(crash_while_loading=True), InsufficientMemory, "SIGKILL"),
    ],
)
async def test_a_failed_load_leaves_no_process(
    tmp_path: Path,
    spawned: list[WorkerProcess],
    script: FakeScript,
    kind: type[SamovarError],
    reason: str,
) -> None:
    with pytest.raises(kind, match=reason):
        await make().launch(plan(tmp_path, script), lambda step: None)
    assert len(spawned) == 1


async def test_a_hung_load_is_given_up_and_leaves_no_process(
    tmp_path: Path, spawned: list[WorkerProcess]
) -> None:
    with pytest.raises(LoadFailed, match="not loaded within"):
        await make(timeout=0.2).launch(plan(tmp_path, FakeScript(hang_while_loading=True)), lambda step: None)
    assert len(spawned) == 1


async def test_a_cancelled_load_leaves_no_process(tmp_path: Path, spawned: list[WorkerProcess]) -> None:
    loading = asyncio.Event()

    def report(step: LoadProgress) -> None:
        if step.phase == "weights":
            loading.set()

    task = asyncio.create_task(make().launch(plan(tmp_path, FakeScript(hang_while_loading=True)), report))
    await loading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(spawned) == 1


async def test_the_spare_is_used_and_replaced_once_the_load_is_done(
    tmp_path: Path, spawned: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    replenished: list[int] = []
    original = SpareWorker.replenish

    def replenish(spare: SpareWorker) -> None:
        replenished.append(len(spawned))
        original(spare)

    monkeypatch.setattr(SpareWorker, "replenish", replenish)
    loader = make(spare=True)
    loader.start_spare()
    workers = await asyncio.gather(*(loader.launch(plan(tmp_path), lambda step: None) for _ in range(2)))
    assert {worker.process.pid for worker in workers} == {process.pid for process in spawned[:2]}
    # Once at the start, and once after both loads: not while one of them still runs.
    assert replenished == [0, 2]
    for worker in workers:
        await worker.stop()
    await loader.stop()
