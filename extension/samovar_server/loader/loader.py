"""From a plan to a running worker."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import httpx

from samovar_server.backends.base import Backend
from samovar_server.loader.options import LoadProgress, ProgressCallback
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.process import WorkerProcess
from samovar_server.loader.spare import SpareState, SpareWorker
from samovar_server.loader.spec import Ready
from samovar_server.loader.status import WorkerStatus, ask

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker that serves its model over HTTP at `url`, to whoever knows `secret`."""

    url: str
    secret: str = field(repr=False)
    ready: Ready
    process: WorkerProcess
    client: httpx.AsyncClient = field(repr=False)

    def alive(self) -> bool:
        """Whether the process runs right now."""
        return self.process.alive()

    async def exited(self) -> str:
        """Wait for the process to end; says how it ended."""
        return await self.process.exited()

    async def status(self) -> WorkerStatus | None:
        """Ask it how it is; None: it does not answer."""
        return await ask(self.client, self.url, self.secret)

    async def stop(self) -> None:
        """End the process at once and wait until it is gone."""
        await self.process.stop()


class Loader:
    """Starts the workers of all backends. `load_timeout` is in seconds; `spare` False keeps none."""

    def __init__(
        self, backends: Iterable[Backend], log: logging.Logger, *, load_timeout: float, spare: bool
    ) -> None:
        self._backends = {backend.name: backend for backend in backends}
        self._log = log
        self._load_timeout = load_timeout
        self._spares = {
            name: SpareWorker(partial(self._spawn, backend), log, enabled=spare and backend.has_spare)
            for name, backend in self._backends.items()
        }
        self._loading = 0
        # Loopback only: a proxy from the environment must see no secret.
        self._client = httpx.AsyncClient(trust_env=False)

    def start_spare(self) -> None:
        """Have a spare worker, unless a load is under way: that one starts it when it ends."""
        if self._loading == 0:
            for spare in self._spares.values():
                spare.replenish()

    def spare_state(self, backend: str) -> SpareState:
        """How that backend's spare worker is."""
        return self._spares[backend].state

    async def launch(self, plan: LoadPlan, report: ProgressCallback) -> RunningWorker:
        """Load a model into a worker of its own. Raises LoadFailed; leaves no process behind then."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        backend = self._backends[plan.backend]
        process: WorkerProcess | None = None
        self._loading += 1
        try:
            await backend.prepare(plan, report)
            report(LoadProgress("starting", 0.0))
            process = self._spares[plan.backend].take()
            ready = await process.load(backend.spec(plan, secret), report, self._load_timeout)
        except BaseException:
            if process is not None:
                await process.stop()
            raise
        finally:
            self._loading -= 1
            self.start_spare()
        return RunningWorker(f"http://127.0.0.1:{ready.port}", secret, ready, process, self._client)

    async def stop(self) -> None:
        """End the spare workers. Loads under way are their callers' to cancel."""
        for spare in self._spares.values():
            await spare.stop()

    async def close(self) -> None:
        """Ask workers nothing any more: to be called when all of them have ended."""
        await self._client.aclose()

    def _spawn(self, backend: Backend) -> WorkerProcess:
        return WorkerProcess.spawn(backend.command, self._log, backend.environment)
