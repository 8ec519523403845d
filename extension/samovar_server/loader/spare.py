"""A worker that has its libraries imported and waits for a model, so that a load skips the import."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from samovar_server.errors import SamovarError
from samovar_server.loader.process import WorkerProcess


class SpareWorker:
    """At most one waiting worker. `enabled` False: every `take` starts a fresh process."""

    def __init__(
        self, spawn: Callable[[], Awaitable[WorkerProcess]], log: logging.Logger, *, enabled: bool = True
    ) -> None:
        self._spawn = spawn
        self._log = log
        self._enabled = enabled
        self._starting: asyncio.Task[WorkerProcess | None] | None = None

    def replenish(self) -> None:
        """Start a spare in the background, unless one is there.

        Not while a model loads: the two would compete for the processor.
        """
        if self._enabled and self._starting is None:
            self._starting = asyncio.create_task(self._start())

    async def take(self) -> WorkerProcess:
        """The spare, or a fresh process. The caller owns it from now on. Raises LoadFailed."""
        task, self._starting = self._starting, None
        spare = await task if task is not None else None
        if spare is not None and spare.alive():
            return spare
        if spare is not None:
            self._log.warning("the spare worker %s", await spare.exited())
            await spare.stop()
        return await self._spawn()

    async def stop(self) -> None:
        """End the spare, if there is one."""
        self._enabled = False
        task, self._starting = self._starting, None
        if task is not None and (spare := await task) is not None:
            await spare.stop()

    async def _start(self) -> WorkerProcess | None:
        try:
            return await self._spawn()
        except SamovarError as error:
            self._log.warning("no spare worker: %s", error.message)
            return None
