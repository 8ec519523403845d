"""A cache's surroundings without processes and without waiting: workers, devices, a clock by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.devices import Memory
from samovar_server.loader.estimate import MemoryEstimate
from samovar_server.loader.options import LoadOptions, LoadProgress, ProgressCallback
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.spec import Ready
from samovar_server.loader.status import WorkerStatus


def make_plan(name: str, size: int = 10, *, device: str = "cpu", dtype: str = "float32") -> LoadPlan:
    """A plan for a model that takes `size` bytes; a dtype other than float32 was asked for by name."""
    asked = LoadOptions(dtype="bfloat16") if dtype == "bfloat16" else LoadOptions()
    model = ResolvedModel(name, name, Path("/models") / name, "folder", None)
    memory = MemoryEstimate(
        weights_bytes=size, kv_bytes_per_token=0, context_length=256, slots=1, overhead_bytes=0
    )
    return LoadPlan(model, asked, "transformers", device, dtype, "none", memory)


async def settle() -> None:
    """Let everything happen that can happen now."""
    for _ in range(12):
        await asyncio.sleep(0)


class ManualClock:
    """Stands still until `advance`; then calls back whoever is due, in order."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._timers: list[ManualTimer] = []

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(when, callback, self._timers)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while due := [timer for timer in self._timers if timer.when <= end]:
            timer = min(due, key=lambda timer: timer.when)
            timer.cancel()
            self._now = max(self._now, timer.when)
            timer.callback()
        self._now = end


@dataclass(eq=False)
class ManualTimer:
    when: float
    callback: Callable[[], None]
    timers: list[ManualTimer]

    def cancel(self) -> None:
        if self in self.timers:
            self.timers.remove(self)


class OneDevice:
    """Main memory of a fixed budget."""

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def memory(self) -> Mapping[str, Memory]:
        return {"cpu": Memory(self.budget, self.budget)}

    def budgets(self, used: Mapping[str, int]) -> Mapping[str, int]:
        return {"cpu": self.budget}


@dataclass(eq=False)
class FakeProcess:
    """A worker from the moment it takes memory to the moment it is gone. Tests move it on."""

    plan: LoadPlan
    report: ProgressCallback
    launcher: FakeLauncher
    memory_bytes: int
    started: asyncio.Future[Ready] = field(default_factory=asyncio.Future)
    ended: asyncio.Future[str] = field(default_factory=asyncio.Future)
    is_stopping: bool = False
    answer: WorkerStatus | None = field(default_factory=WorkerStatus)
    """What it says when it is asked how it is; None: it hangs."""
    secret: str = "secret"
    url: str = "http://127.0.0.1:1"

    @property
    def is_loading(self) -> bool:
        return not self.started.done()

    @property
    def ready(self) -> Ready:
        return self.started.result()

    def progress(self, fraction: float) -> None:
        self.report(LoadProgress("weights", fraction))

    def finish(self, memory_bytes: int | None = None) -> None:
        """The load has succeeded."""
        self.memory_bytes = self.memory_bytes if memory_bytes is None else memory_bytes
        self.started.set_result(Ready(1, "cpu", self.plan.dtype, 256, self.memory_bytes, {}))

    def fail(self, error: Exception) -> None:
        """The load has failed."""
        self.started.set_exception(error)

    def end(self, how: str = "crashed") -> None:
        """The process is gone: by itself, or because it was told to stop."""
        if not self.ended.done():
            self.ended.set_result(how)
            self.launcher.processes.remove(self)

    def alive(self) -> bool:
        return not self.ended.done()

    async def exited(self) -> str:
        return await asyncio.shield(self.ended)

    async def status(self) -> WorkerStatus | None:
        return self.answer

    async def stop(self) -> None:
        self.is_stopping = True
        if self.launcher.stops_at_once:
            self.end("stopped")
        await asyncio.shield(self.ended)


class FakeLauncher:
    """Starts FakeProcesses. `processes` are those that hold memory now."""

    def __init__(self, *, stops_at_once: bool = True) -> None:
        self.stops_at_once = stops_at_once
        self.processes: list[FakeProcess] = []
        self.launched: list[FakeProcess] = []

    async def launch(self, plan: LoadPlan, report: ProgressCallback) -> FakeProcess:
        process = FakeProcess(plan, report, self, plan.memory.total_bytes)
        self.processes.append(process)
        self.launched.append(process)
        try:
            await process.started
        except BaseException:
            process.end("stopped")
            raise
        return process

    @property
    def loading(self) -> list[FakeProcess]:
        return [process for process in self.processes if process.is_loading]
