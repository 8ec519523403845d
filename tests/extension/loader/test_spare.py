from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from samovar_server.errors import LoadFailed
from samovar_server.loader.process import WorkerProcess
from samovar_server.loader.spare import SpareWorker

LOG = logging.getLogger("samovar")
WAIT = [sys.executable, "-c", "import sys; sys.stdin.read()"]


class Spawner:
    """Starts processes that do nothing, and remembers them."""

    def __init__(self, command: list[str] = WAIT) -> None:
        self.command = command
        self.started: list[WorkerProcess] = []

    def __call__(self) -> WorkerProcess:
        self.started.append(WorkerProcess.spawn(self.command, LOG, {}))
        return self.started[-1]

    async def stop(self) -> None:
        for process in self.started:
            await process.stop()


async def test_the_spare_is_taken_once() -> None:
    spawner = Spawner()
    spare = SpareWorker(spawner, LOG)
    spare.replenish()
    spare.replenish()
    first, second = spare.take(), spare.take()
    assert spawner.started == [first, second]
    await spare.stop()
    await spawner.stop()


async def test_a_spare_that_has_died_is_not_given_out() -> None:
    spawner = Spawner([sys.executable, "-c", "raise SystemExit(1)"])
    spare = SpareWorker(spawner, LOG)
    spare.replenish()
    await spawner.started[0].exited()
    spawner.command = WAIT
    taken = spare.take()
    assert taken.alive()
    assert taken is spawner.started[1]
    await spare.stop()
    await spawner.stop()


async def test_how_the_spare_is() -> None:
    says = "import sys; print('imported', flush=True); sys.stdin.read()"
    spawner = Spawner([sys.executable, "-c", says])
    spare = SpareWorker(spawner, LOG)
    states = [spare.state]
    spare.replenish()
    lines = spawner.started[0]._child.lines
    async with asyncio.timeout(60):
        lines.put_nowait(await lines.get())  # once there is one
    states.append(spare.state)
    await spawner.started[0].stop()
    states.append(spare.state)
    await spare.stop()
    assert [*states, spare.state] == ["none", "ready", "ended", "off"]


async def test_without_a_spare_every_load_starts_its_own() -> None:
    spawner = Spawner()
    spare = SpareWorker(spawner, LOG, enabled=False)
    spare.replenish()
    assert spawner.started == []
    assert spare.take().alive()
    await spawner.stop()


async def test_stop_ends_the_spare_and_no_other_comes() -> None:
    spawner = Spawner()
    spare = SpareWorker(spawner, LOG)
    spare.replenish()
    await spare.stop()
    assert [process.alive() for process in spawner.started] == [False]
    spare.replenish()
    await spare.stop()
    assert len(spawner.started) == 1


async def test_a_spare_that_cannot_be_started_is_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    spawner = Spawner(["/does/not/exist"])
    spare = SpareWorker(spawner, LOG)
    spare.replenish()
    with pytest.raises(LoadFailed):
        spare.take()
    assert "no spare worker" in caplog.text
    spawner.command = WAIT
    assert spare.take().alive()
    await spare.stop()
    await spawner.stop()
