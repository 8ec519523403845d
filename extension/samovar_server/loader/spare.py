"""A worker that has its libraries imported and waits for a model, so that a load skips the import."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from samovar_server.errors import LoadFailed
from samovar_server.loader.process import WorkerProcess

SpareState = Literal["off", "none", "importing", "ready", "ended"]
"""Of the waiting worker: none is wanted, none is there yet, it imports, it waits, it has ended by itself."""


class SpareWorker:
    """At most one waiting worker. `enabled` False: every `take` starts a fresh process."""

    def __init__(
        self, spawn: Callable[[], WorkerProcess], log: logging.Logger, *, enabled: bool = True
    ) -> None:
        self._spawn = spawn
        self._log = log
        self._enabled = enabled
        self._spare: WorkerProcess | None = None

    @property
    def state(self) -> SpareState:
        """How it is right now."""
        if not self._enabled:
            return "off"
        if self._spare is None:
            return "none"
        if not self._spare.alive():
            return "ended"
        return "ready" if self._spare.has_imported() else "importing"

    def replenish(self) -> None:
        """Start a spare, unless one is there; it imports in the background.

        Not while a model loads: the two would compete for the processor.
        """
        if not self._enabled or (self._spare is not None and self._spare.alive()):
            return
        try:
            self._spare = self._spawn()
        except LoadFailed as error:
            self._log.warning("no spare worker: %s", error.message)

    def take(self) -> WorkerProcess:
        """The spare, or a fresh process. The caller owns it from now on. Raises LoadFailed."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.alive():
            return spare
        if spare is not None:
            self._log.warning("the spare worker %d has ended", spare.pid)
        return self._spawn()

    async def stop(self) -> None:
        """End the spare, if there is one, and have none from now on."""
        self._enabled = False
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.stop()
