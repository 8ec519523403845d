"""One model in the cache: its state, who uses it, and why it ended.

    starting --> ready --> draining --> stopped
        |          |                       ^
        |          +------> failed --------+  (failed: kept to be seen until the next load or unload)
        +-----------------> failed / stopped  (stopped: the load was cancelled, or got no room)

An entry is one load: when it has stopped or failed, the next load of the model is a new entry. Holders
of an old one learn from `failure` what became of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from samovar_server.cache.policy import AFTER_USE, NEVER, Holding, Phase, expiry
from samovar_server.cache.records import Change, LoadedModel, ModelChange, QueueLength, State
from samovar_server.cache.telling import Telling
from samovar_server.errors import ModelCrashed, SamovarError
from samovar_server.loader.options import LoadProgress
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.progress import ProgressFeed
from samovar_server.loader.spec import Ready
from samovar_server.loader.status import WorkerStatus

_NEXT: Mapping[State, frozenset[State]] = {
    "starting": frozenset({"ready", "failed", "stopped"}),
    "ready": frozenset({"draining", "failed"}),
    "draining": frozenset({"stopped"}),
    "stopped": frozenset(),
    "failed": frozenset({"stopped"}),
}


class Worker(Protocol):
    """A running worker as the cache sees it."""

    @property
    def url(self) -> str:
        """Where it answers, without a path."""

    @property
    def secret(self) -> str:
        """What it wants to be shown."""

    @property
    def ready(self) -> Ready:
        """What it told when it was ready."""

    def alive(self) -> bool:
        """Whether its process runs right now."""

    async def exited(self) -> str:
        """Wait for its end; says how it ended."""

    async def status(self) -> WorkerStatus | None:
        """Ask it how it is; None: no answer."""

    async def stop(self) -> None:
        """End it at once and wait until its memory is free."""


class Entry:
    """One load of one model. Only the cache changes it; all of it happens on the server's loop."""

    def __init__(
        self,
        plan: LoadPlan,
        *,
        number: int,
        ttl: float,
        pinned: bool,
        now: Callable[[], float],
        telling: Telling,
        log: logging.Logger,
    ) -> None:
        """`now` tells the time in Unix seconds; all that changes is told to `telling`."""
        self.plan = plan
        self._now = now
        self._telling = telling
        self.number = number
        """Rises from load to load: the order in which room is promised."""
        self.references = {plan.model.reference}
        """What the model was called by those who asked for it."""
        self.ttl = ttl
        self._default_ttl = ttl
        self.pinned = pinned
        self.memory_bytes = plan.memory.total_bytes
        self.leases = 0
        self.served = 0
        """Requests that have been answered."""
        self.waiters = 0
        """Requests that will take a lease as soon as the load is done."""
        self.turns_awaited = 0
        """Requests that hold a lease and wait for their turn."""
        self.successors = 0
        """Requests that wait for this entry to go, to load the model anew."""
        self._began = self.last_used = now()
        self.loaded_at: float | None = None
        self.worker: Worker | None = None
        self.load_task: asyncio.Task[Worker] | None = None
        self.doomed = False
        """The load is not wanted any more."""
        self.retiring = False
        """The worker is being ended: nobody gets a lease now."""
        self.has_room = False
        """Whether the memory is taken; before that it is only promised."""
        self.doubt: asyncio.Event | None = None
        """Set as long as a broken connection may mean that the worker is about to end."""
        self.reason: str | None = None
        """Why it has to leave, or what else is to be known of it."""
        self.evicted: list[str] = []
        """Cache keys of the models that made room for this one."""
        self.progress = ProgressFeed(log, self._tell_progress)
        self.settled = asyncio.Event()
        """The load has ended, well or badly."""
        self.gone = asyncio.Event()
        """No process is left and the memory is free."""
        self._status = WorkerStatus()
        self._state: State = "starting"
        self._error: SamovarError | None = None
        self.tell("starting")

    @property
    def state(self) -> State:
        """Where the entry is in its life."""
        return self._state

    def move(self, state: State, error: SamovarError | None = None) -> None:
        """Go on to `state`; `error` is what requests are told from now on."""
        assert state in _NEXT[self._state], f"{self.plan.cache_key}: {self._state} -> {state}"
        self._state = state
        self._error = error or self._error
        self.settled.set()
        if state in ("stopped", "failed"):
            self.gone.set()
        self.end_doubt()
        self.tell(state, seconds=self._now() - self._began if state == "ready" else None)

    def tell(
        self, change: Change, progress: LoadProgress | None = None, seconds: float | None = None
    ) -> None:
        """Tell of a change, with the reason if there is one; `seconds` is what a load took."""
        reason = self._error.message if self._state == "failed" and self._error else self.reason
        self._telling.change(ModelChange(change, self.record(), reason, progress, seconds))

    def _tell_progress(self, progress: LoadProgress) -> None:
        self.tell("progress", progress)

    def end_doubt(self) -> None:
        """It is known now what a broken connection meant."""
        if self.doubt is not None:
            self.doubt.set()
            self.doubt = None

    def blame(self, error: SamovarError) -> None:
        """Make `error` what the requests are told that are about to be cut off."""
        self._error = error

    @property
    def idle(self) -> bool:
        """Whether nobody uses the model or waits for its load."""
        return self.leases == 0 and self.waiters == 0

    @property
    def queue(self) -> tuple[int, int]:
        """Requests that run, and those that wait: for their turn, for the load, for this entry to go."""
        return self.leases - self.turns_awaited, self.turns_awaited + self.waiters + self.successors

    async def ask(self) -> WorkerStatus | None:
        """Ask the worker how it is, and count what it has done since; None: it does not answer."""
        assert self.worker is not None
        status = await self.worker.status()
        # Answers may overtake each other: what is told again is not counted again.
        if status is not None and status.computed_tokens > self._status.computed_tokens:
            before, self._status = self._status, status
            self._telling.tokens(self.plan, before, status)
        return status

    def failure(self) -> SamovarError:
        """Why a request that used or awaited this entry cannot go on; a fresh exception each time."""
        if self._error is None:
            return ModelCrashed(
                f"The connection to the worker of {self.plan.model.name} broke. Send the request again; "
                "if it happens again, see the server's log."
            )
        return type(self._error)(
            self._error.message, param=self._error.param, retry_after=self._error.retry_after
        )

    def take_lease(self) -> None:
        """Count one request that uses the model."""
        self.leases += 1
        self._tell_queue()

    def return_lease(self, *, served: bool) -> None:
        """Count one use less (`served`: it was a request); the time to live begins when it was the last."""
        self.leases -= 1
        self.served += served
        self.last_used = self._now()
        self._tell_queue()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count one request that waits for the load."""
        self.waiters += 1
        self._tell_queue()
        try:
            yield
        finally:
            self.waiters -= 1
            self._tell_queue()

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Count one request that holds a lease as one that waits for its turn."""
        self.turns_awaited += 1
        self._tell_queue()
        try:
            yield
        finally:
            self.turns_awaited -= 1
            self._tell_queue()

    @contextmanager
    def succeeding(self) -> Iterator[None]:
        """Count one request that waits for this entry to go."""
        self.successors += 1
        self._tell_queue()
        try:
            yield
        finally:
            self.successors -= 1
            self._tell_queue()

    def _tell_queue(self) -> None:
        running, waiting = self.queue
        self._telling.queue(QueueLength(self.plan.cache_key, running, waiting))

    @property
    def expires_at(self) -> float | None:
        """When the model will leave if nobody uses it; None while somebody does, or never."""
        if self._state != "ready" or self.retiring or self.pinned or not self.idle:
            return None
        ttl = self.ttl
        if ttl == AFTER_USE and not self.served:  # it was loaded ahead of its use
            ttl = NEVER if self._default_ttl == AFTER_USE else self._default_ttl
        return expiry(ttl, self.last_used)

    def holding(self) -> Holding | None:
        """The entry as the eviction policy sees it; None when it has no claim on memory."""
        phase = self._phase()
        if phase is None:
            return None
        return Holding(
            key=self.plan.identity,
            memory_bytes=self.memory_bytes,
            phase=phase,
            idle=self._state == "ready" and self.idle,
            pinned=self.pinned,
            last_used=self.last_used,
            expires_at=self.expires_at,
        )

    def _phase(self) -> Phase | None:
        match self._state:
            case "starting":
                return "resident" if self.has_room else "waiting"
            case "ready":
                return "leaving" if self.retiring else "resident"
            case "draining":
                return "leaving"
            case _:
                return None

    def record(self) -> LoadedModel:
        """A snapshot for /v1/models/loaded."""
        ready = self.worker.ready if self.worker is not None else None
        plan, expires_at = self.plan, self.expires_at
        return LoadedModel(
            cache_key=plan.cache_key,
            model=plan.model.name,
            model_path=str(plan.model.path),
            revision=plan.model.revision,
            backend=plan.backend,
            backend_reason=plan.reason,
            device=ready.device if ready else plan.device,
            dtype=ready.dtype if ready else plan.dtype,
            quantization=plan.quantization,
            state=self._state,
            memory_bytes=self.memory_bytes,
            in_flight=self.queue[0],
            queued=self.queue[1],
            pinned=self.pinned,
            loaded_at=self.loaded_at,
            last_used=self.last_used,
            expires_at=expires_at,
            ttl=self.ttl,
            ttl_remaining=None if expires_at is None else max(expires_at - self._now(), 0.0),
            context_length=ready.context_length if ready else plan.memory.context_length,
            load_seconds=dict(ready.load_seconds) if ready else {},
            evicted=list(self.evicted),
            error=self._error.message if self._error is not None and self._state == "failed" else None,
            reason=self.reason,
        )
