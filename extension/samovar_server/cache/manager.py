"""The model cache: which models are in memory, who uses them, who comes and who goes.

Everything here runs on the server's one loop. Between two awaits nothing else happens, and the code
relies on it: a decision and what follows from it (a lease taken, room claimed, a state changed) are
never separated by an await. What takes time (loads, process ends) runs in tasks of the cache's own, so
a caller that goes away leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from samovar_server.cache.clock import Clock, Timer
from samovar_server.cache.entry import Entry, Worker
from samovar_server.cache.lease import Lease
from samovar_server.cache.ledger import Devices, Ledger, gigabytes
from samovar_server.cache.policy import expired, next_expiry
from samovar_server.cache.records import CacheStats, LoadedModel, WorkerAddress
from samovar_server.cache.telling import Tell, Telling
from samovar_server.errors import (
    Conflict,
    InsufficientMemory,
    LoadFailed,
    ModelCrashed,
    ModelUnloaded,
    SamovarError,
)
from samovar_server.loader.options import LoadOptions, LoadProgress, ProgressCallback
from samovar_server.loader.plan import LoadPlan

Mode = Literal["drain", "now"]
Launch = Callable[[LoadPlan, ProgressCallback], Coroutine[Any, Any, Worker]]
"""Loads a model into a new worker; when it raises or is cancelled, no process is left."""

MEGABYTE = 10**6

DOUBT_SECONDS = 0.5
"""A dying process closes its connections before the system tells of its end. For so long after a
connection broke, new requests wait to see whether the worker ends."""


@dataclass
class _CacheLease(Lease):
    _failure: Callable[[], SamovarError] = field(repr=False)

    def failure(self) -> SamovarError:
        return self._failure()


class ModelCache:
    """Models in memory. `default_ttl` is in seconds; 0: models do not expire. `tell` hears of all changes."""

    def __init__(
        self,
        launch: Launch,
        devices: Devices,
        *,
        clock: Clock,
        log: logging.Logger,
        default_ttl: float,
        tell: Tell,
    ) -> None:
        self._launch = launch
        self._telling = Telling(tell, clock)
        self._clock = clock
        self._log = log
        self._default_ttl = default_ttl
        self._entries: dict[str, Entry] = {}
        self._ledger = Ledger(self._entries, devices, clock)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._change = asyncio.Event()
        self._timer: Timer | None = None
        self._closed = False
        self._loads = 0
        self._hits = 0
        self._misses = 0
        self._served = 0
        self._evictions = 0

    def find(self, reference: str, options: LoadOptions) -> LoadPlan | None:
        """The plan of a copy in memory that `reference` and `options` can use; None: plan a load."""
        for entry in self._entries.values():
            if entry.state == "failed":  # what is on the disk may have changed since
                continue
            if reference in entry.references and entry.plan.satisfies(options):
                return entry.plan
        return None

    @asynccontextmanager
    async def lease(
        self, plan: LoadPlan, *, ttl: float | None = None, on_progress: ProgressCallback | None = None
    ) -> AsyncIterator[Lease]:
        """Hold the model in memory for one request, loading it first if needed.

        `ttl` is the model's time to live from now on. Raises the error that the load ended with,
        Conflict, or InsufficientMemory.
        """
        entry = await self._hold(plan, ttl=ttl, pin=False, on_progress=on_progress, is_request=True)
        try:
            assert entry.worker is not None
            record = entry.record()
            yield _CacheLease(
                entry.worker.url,
                entry.worker.secret,
                record,
                partial(self._crashes.failure, entry),
                evicted=tuple(entry.evicted) if waited else (),
                dialect=entry.plan.dialect,
            )
        finally:
            self._served += 1
            self._release(entry)

    async def load(
        self,
        plan: LoadPlan,
        *,
        ttl: float | None = None,
        pin: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> LoadedModel:
        """Bring a model into memory, or join the load under way. `pin` True keeps it until an unload."""
        entry = await self._hold(plan, ttl=ttl, pin=pin, on_progress=on_progress, is_request=False)
        self._release(entry)
        return entry.record()

    async def unload(self, wanted: Callable[[Entry], bool], mode: Mode = "drain") -> list[LoadedModel]:
        """Free the memory of the `wanted` models and wait until it is free.

        `drain` lets running requests end first; `now` ends them with ModelUnloaded. Loads under way
        are cancelled in both. A caller who stops waiting does not stop the unload.
        """
        leaving = [entry for entry in self._entries.values() if wanted(entry)]
        for entry in leaving:
            name = entry.plan.model.name
            self._log.info("unloading %s (%s)", name, mode)
            error = ModelUnloaded(f"{name} was unloaded. Send the request again to load it afresh.")
            self._leave(entry, mode, f"an unload was asked for ({mode})", error)
        for entry in leaving:
            await entry.gone.wait()
        return [entry.record() for entry in leaving]

    async def close(self) -> None:
        """End all workers, cancel all loads and await the end of it all. May be called twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._telling.close()
        for entry in list(self._entries.values()):
            self._leave(entry, "now", "the server stops", self._closing())
        while self._tasks:
            await asyncio.wait(self._tasks)

    def loaded(self) -> list[LoadedModel]:
        """Every model that is in memory, on its way in or out, or whose last load failed."""
        return [entry.record() for entry in self._entries.values()]

    def workers(self) -> list[WorkerAddress]:
        """The workers of the models that are ready."""
        return [
            WorkerAddress(entry.plan.cache_key, entry.worker.url, entry.worker.secret)
            for entry in self._entries.values()
            if entry.state == "ready" and entry.worker is not None
        ]

    def used_bytes(self) -> dict[str, int]:
        """Memory taken by models, by device."""
        return self._ledger.used_bytes()

    def stats(self) -> CacheStats:
        """Counters since the start, and the memory of each device."""
        used = self.used_bytes()
        in_memory = [entry for entry in self._entries.values() if entry.state in ("ready", "draining")]
        asked = self._hits + self._misses
        return CacheStats(
            total_models_loaded=len(in_memory),
            active_models=sum(entry.leases > 0 for entry in in_memory),
            total_requests_served=self._served,
            cache_hits=self._hits,
            cache_misses=self._misses,
            hit_rate=self._hits / asked if asked else 0.0,
            evictions=self._evictions,
            estimated_gpu_memory_mb=sum(size for name, size in used.items() if name != "cpu") / MEGABYTE,
            estimated_cpu_memory_mb=used.get("cpu", 0) / MEGABYTE,
            memory=self._ledger.device_memory(),
        )

    # Getting in

    async def _hold(
        self,
        plan: LoadPlan,
        *,
        ttl: float | None,
        pin: bool,
        on_progress: ProgressCallback | None,
        is_request: bool,
    ) -> Entry:
        """A ready entry with a lease taken for the caller, who has to `_release` it."""
        missed = False
        while True:
            if self._closed:
                raise self._closing()
            entry = self._entries.get(plan.identity)
            if entry is not None:
                self._notice_crash(entry)
            if entry is None or entry.state == "failed":
                entry = self._begin(plan)
            if entry.state != "ready" and is_request and not missed:
                missed = True
                self._misses += 1
            if not await self._is_usable(entry, plan, on_progress):
                continue
            entry.references.add(plan.model.reference)
            entry.ttl = entry.ttl if ttl is None else ttl
            if pin and not entry.pinned:
                entry.pinned = True
                entry.tell("pinned")
            if entry.state == "ready":
                if is_request and not missed:
                    self._hits += 1
                entry.take_lease()
                return entry
            await self._join(entry, on_progress)
            return entry

    async def _is_usable(self, entry: Entry, plan: LoadPlan, on_progress: ProgressCallback | None) -> bool:
        """True, without a pause: join this entry. False: look again, the entry has gone on."""
        if entry.state == "draining" or entry.doomed:
            await self._outlast(entry, entry.gone, on_progress)
            return False
        if entry.doubt is not None:
            await self._outlast_doubt(entry, entry.doubt)
            return False
        if entry.plan.satisfies(plan.options):
            return True
        if entry.pinned:
            raise Conflict(
                f"{plan.model.name} is pinned in memory with other load options ({entry.plan.cache_key}). "
                "Leave the load options out to use it as it is, or unload it first."
            )
        if entry.state == "starting":
            await self._outlast(entry, entry.settled, on_progress)
            return False
        self._ledger.room_for(plan)  # or raise, and keep the copy that is there
        self._log.info("replacing %s by %s", entry.plan.cache_key, plan.cache_key)
        self._leave(entry, "drain", f"{plan.cache_key} takes its place")
        return False

    async def _outlast(
        self, entry: Entry, event: asyncio.Event, on_progress: ProgressCallback | None
    ) -> None:
        if on_progress is not None:
            on_progress(LoadProgress("queued", 0.0))
        with entry.succeeding():
            await event.wait()

    async def _outlast_doubt(self, entry: Entry, doubt: asyncio.Event) -> None:
        try:
            with entry.waiting():
                await doubt.wait()
        finally:
            self._after_use(entry)

    async def _join(self, entry: Entry, on_progress: ProgressCallback | None) -> None:
        """Wait for a load to end and take a lease, or raise what the load ended with."""
        try:
            with entry.waiting(), entry.progress.listening(on_progress):
                await entry.settled.wait()
                self._notice_crash(entry)
                # An unload that drains may have come in between: it waits for those who came before.
                if entry.state not in ("ready", "draining") or entry.retiring:
                    raise entry.failure()
                entry.take_lease()
        finally:
            self._after_use(entry)

    def _release(self, entry: Entry) -> None:
        entry.return_lease()
        self._after_use(entry)

    def _after_use(self, entry: Entry) -> None:
        if not entry.idle:
            return
        if entry.state == "draining":
            self._retire(entry)
        self._announce()

    # Loading

    def _begin(self, plan: LoadPlan) -> Entry:
        self._entries.pop(plan.identity, None)  # a failed one
        self._loads += 1
        entry = Entry(
            plan,
            number=self._loads,
            ttl=self._default_ttl,
            now=self._clock.now,
            telling=self._telling,
            log=self._log,
        )
        self._entries[plan.identity] = entry
        self._log.info("loading %s (about %s)", plan.cache_key, gigabytes(entry.memory_bytes))
        entry.load_task = self._run(self._bring_up(entry))
        # A task that is cancelled before its first step runs nothing of its body, only its callbacks.
        entry.load_task.add_done_callback(partial(self._load_ended, entry))
        return entry

    async def _bring_up(self, entry: Entry) -> Worker:
        await self._make_room(entry)
        return await self._launch(entry.plan, entry.progress.report)

    async def _make_room(self, entry: Entry) -> None:
        while True:
            decision = self._ledger.room_for(entry.plan, entry)
            if decision.action == "start":
                entry.has_room = True
                return
            self._evict(decision.evict, f"make room for {entry.plan.model.name}")
            await self._change.wait()

    def _load_ended(self, entry: Entry, task: asyncio.Task[Worker]) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (error is not None and entry.doomed):
            self._end(entry)
        elif isinstance(error, InsufficientMemory) and not entry.has_room:
            entry.blame(error)  # nothing was tried, so there is nothing to show as failed
            self._end(entry)
        elif error is not None:
            self._failed(entry, error)
        else:
            self._became_ready(entry, task.result())
        self._announce()

    def _failed(self, entry: Entry, error: BaseException) -> None:
        name = entry.plan.model.name
        if isinstance(error, SamovarError):
            self._log.error("loading %s failed: %s", name, error.message)
        else:
            self._log.error("loading %s failed", name, exc_info=error)
            error = LoadFailed(f"{name} could not be loaded, by a fault of samovar's: see the server's log.")
        entry.move("failed", error)

    def _became_ready(self, entry: Entry, worker: Worker) -> None:
        entry.worker = worker
        entry.loaded_at = entry.last_used = self._clock.now()
        entry.memory_bytes = worker.ready.memory_bytes
        entry.progress.report(LoadProgress("ready", 1.0))
        entry.move("ready")
        self._log.info("loaded %s (%s)", entry.plan.cache_key, gigabytes(entry.memory_bytes))
        self._run(self._watch(entry, worker))
        if entry.doomed:
            self._leave(entry, "now", entry.reason)
        else:
            self._correct(entry.plan.device)

    def _correct(self, device: str) -> None:
        """After an estimate that was too low: let idle models go, as a load of that size would have."""
        decision = self._ledger.excess(device)
        if decision.action == "refuse":
            self._log.warning("models on %s take %s too much", device, gigabytes(decision.missing_bytes))
        self._evict(decision.evict, "get back within the memory budget")

    # Getting out

    def _leave(self, entry: Entry, mode: Mode, reason: str | None, error: SamovarError | None = None) -> None:
        """Send an entry on its way out; `error` is for the requests that this cuts off."""
        entry.reason = entry.reason or reason
        if entry.state == "starting":
            assert entry.load_task is not None
            if not entry.doomed:  # a second cancellation would disturb the clean-up of the first
                entry.doomed = True
                entry.load_task.cancel()
        elif entry.state == "ready":
            entry.move("draining")
        elif entry.state == "failed":
            self._end(entry)
            return
        if error is not None and (mode == "now" or entry.state == "starting"):
            entry.blame(error)
        if entry.state == "draining" and (mode == "now" or entry.idle):
            self._retire(entry)

    def _evict(self, keys: tuple[str, ...], reason: str) -> None:
        for key in keys:
            entry = self._entries[key]
            self._evictions += 1
            size = gigabytes(entry.memory_bytes)
            self._log.info("evicting %s (%s) to %s", entry.plan.cache_key, size, reason)
            entry.reason = f"evicted to {reason}"
            entry.tell("evicted")
            self._leave(entry, "drain", entry.reason)

    def _expire(self) -> None:
        for key in expired(self._ledger.holdings(), self._clock.now()):
            entry = self._entries[key]
            self._log.info("unloading %s: unused for %g s", entry.plan.cache_key, entry.ttl)
            self._leave(entry, "drain", f"unused for {entry.ttl:g} s")
        self._schedule_expiry()

    def _schedule_expiry(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = next_expiry(self._ledger.holdings())
        if when is not None and not self._closed:
            self._timer = self._clock.call_at(when, self._expire)

    def _retire(self, entry: Entry) -> None:
        if not entry.retiring:
            entry.retiring = True
            self._run(self._stop(entry))

    async def _stop(self, entry: Entry) -> None:
        assert entry.worker is not None
        try:
            await entry.worker.stop()
        finally:
            self._end(entry)
            self._announce()

    def _end(self, entry: Entry) -> None:
        entry.move("stopped")
        if self._entries.get(entry.plan.identity) is entry:
            del self._entries[entry.plan.identity]

    async def _watch(self, entry: Entry, worker: Worker) -> None:
        """Notice at once when a worker ends by itself."""
        how = await worker.exited()
        if not entry.retiring:  # it was not ended by us
            self._log.error("the worker of %s %s", entry.plan.model.name, how)
            self._crashed(entry, how)
        await worker.stop()

    def _notice_crash(self, entry: Entry) -> None:
        """Look whether the worker is gone, though `_watch` has not been told yet."""
        if entry.state not in ("ready", "draining") or entry.retiring:
            return
        assert entry.worker is not None
        if not entry.worker.alive():
            self._crashed(entry, "ended")

    def _crashed(self, entry: Entry, how: str) -> None:
        name = entry.plan.model.name
        error = ModelCrashed(f"The worker of {name} {how}. Send the request again to load the model afresh.")
        if entry.state == "ready":
            entry.move("failed", error)
        else:
            entry.blame(error)
        if entry.state == "draining":
            self._retire(entry)
        self._announce()

    def _failure(self, entry: Entry) -> SamovarError:
        self._notice_crash(entry)
        if entry.state == "ready" and entry.doubt is None:
            entry.doubt = asyncio.Event()
            self._clock.call_at(self._clock.now() + DOUBT_SECONDS, entry.end_doubt)
        return entry.failure()

    def _closing(self) -> SamovarError:
        return ModelUnloaded("The server is stopping. Start it again, then send the request again.")

    def _announce(self) -> None:
        """Wake the loads that wait for room: something has changed that may help them."""
        change, self._change = self._change, asyncio.Event()
        change.set()
        self._schedule_expiry()

    def _run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
