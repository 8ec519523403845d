"""The model cache: which models are in memory, who uses them, who comes and who goes.

Everything here runs on the server's one loop. Between two awaits nothing else happens, and the code
relies on it: a decision and what follows from it (a lease taken, room claimed, a state changed) are
never separated by an await. What takes time (loads, process ends) runs in tasks of the cache's own, so
a caller that goes away leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from samovar_server.cache.arrivals import Arrivals, Launch
from samovar_server.cache.clock import Clock
from samovar_server.cache.crashes import Crashes
from samovar_server.cache.departures import Departures, Mode
from samovar_server.cache.entry import Entry
from samovar_server.cache.lease import Lease
from samovar_server.cache.ledger import Devices, Ledger
from samovar_server.cache.records import (
    CacheStats,
    EngineStats,
    LoadedModel,
    LoadEstimate,
    WorkerAddress,
)
from samovar_server.cache.telling import Tell, Telling
from samovar_server.errors import Conflict, ModelUnloaded, SamovarError
from samovar_server.loader.options import LoadOptions, LoadProgress, ProgressCallback
from samovar_server.loader.plan import LoadPlan

__all__ = ["Launch", "Mode", "ModelCache"]

MEGABYTE = 10**6

PATIENCE_SECONDS = 60.0
"""How long a worker may leave a question about its state unanswered while it has requests."""


@dataclass
class _CacheLease(Lease):
    _failure: Callable[[], SamovarError] = field(repr=False)
    _queued: Callable[[], AbstractContextManager[None]] = field(repr=False)

    def queued(self) -> AbstractContextManager[None]:
        return self._queued()

    def failure(self) -> SamovarError:
        return self._failure()


class ModelCache:
    """Models in memory.

    `default_ttl` is in seconds; 0: models do not expire, -1: they are unloaded after their use.
    `is_pinned` says which models are pinned as soon as they come. A worker that is silent for `patience`
    seconds is taken for hung. `tell` hears of all changes.
    """

    def __init__(
        self,
        launch: Launch,
        devices: Devices,
        *,
        clock: Clock,
        log: logging.Logger,
        default_ttl: float,
        tell: Tell,
        patience: float = PATIENCE_SECONDS,
        is_pinned: Callable[[LoadPlan], bool] = lambda plan: False,
    ) -> None:
        self._log = log
        self._entries: dict[str, Entry] = {}
        self._ledger = Ledger(self._entries, devices, clock)
        self._telling = Telling(tell, clock)
        self._departures = Departures(self._entries, self._ledger, clock=clock, log=log)
        self._crashes = Crashes(self._departures, self._ledger, clock=clock, log=log, patience=patience)
        self._arrivals = Arrivals(
            launch,
            self._entries,
            self._ledger,
            self._departures,
            self._crashes,
            clock=clock,
            log=log,
            telling=self._telling,
            default_ttl=default_ttl,
            is_pinned=is_pinned,
        )
        self._hits = 0
        self._misses = 0
        self._served = 0

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
        entry, waited = await self._hold(plan, ttl=ttl, pin=None, on_progress=on_progress, is_request=True)
        try:
            assert entry.worker is not None
            record = entry.record()
            yield _CacheLease(
                entry.worker.url,
                entry.worker.secret,
                record,
                partial(self._crashes.failure, entry),
                entry.queued,
                slots=entry.worker.ready.slots,
                reserve=entry.worker.ready.reserve,
                evicted=tuple(entry.evicted) if waited else (),
                dialect=entry.plan.dialect,
            )
        finally:
            self._served += 1
            self._departures.succeeded(entry)
            self._release(entry, served=True)

    async def load(
        self,
        plan: LoadPlan,
        *,
        ttl: float | None = None,
        pin: bool | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> LoadedModel:
        """Bring a model into memory, or join the load under way.

        `pin` True keeps it until an unload, False takes such a pin away, None leaves that as it is.
        """
        entry, waited = await self._hold(plan, ttl=ttl, pin=pin, on_progress=on_progress, is_request=False)
        self._release(entry, served=False)
        record = entry.record()
        return record if waited else replace(record, evicted=[])

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
            self._departures.leave(entry, mode, f"an unload was asked for ({mode})", error)
        for entry in leaving:
            await entry.gone.wait()
        return [entry.record() for entry in leaving]

    async def close(self) -> None:
        """End all workers, cancel all loads and await the end of it all. May be called twice."""
        self._telling.close()
        await self._departures.close()

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

    async def engines(self) -> list[EngineStats]:
        """What the engines of the models that are ready do now; those that do not tell are left out."""
        ready = [entry for entry in self._entries.values() if entry.state == "ready"]
        told = await asyncio.gather(*(entry.ask() for entry in ready))
        return [
            EngineStats.from_status(entry.plan.cache_key, status)
            for entry, status in zip(ready, told, strict=True)
            if status is not None and status.running is not None
        ]

    def used_bytes(self) -> dict[str, int]:
        """Memory taken by models, by device."""
        return self._ledger.used_bytes()

    def estimate(self, plan: LoadPlan, source: Literal["disk", "hub"]) -> LoadEstimate:
        """What a load by `plan` would take, and who would go for it; changes nothing."""
        return self._ledger.estimate(plan, source)

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
            evictions=self._departures.evictions,
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
        pin: bool | None,
        on_progress: ProgressCallback | None,
        is_request: bool,
    ) -> tuple[Entry, bool]:
        """A ready entry with a lease taken for the caller, who has to `_release` it.

        Also whether the caller had to wait for its load.
        """
        missed = False
        while True:
            self._departures.check_open()
            entry = self._entries.get(plan.identity)
            if entry is not None:
                self._crashes.notice(entry)
            if entry is None or entry.state == "failed":
                entry = self._arrivals.begin(plan, at_once=not is_request)
            if entry.state != "ready" and is_request and not missed:
                missed = True
                self._misses += 1
            if not await self._is_usable(entry, plan, on_progress):
                continue
            entry.references.add(plan.model.reference)
            entry.ttl = entry.ttl if ttl is None else ttl
            if pin is not None and pin != entry.pinned:
                entry.pinned = pin
                entry.tell("pinned")
            if entry.state == "ready":
                if is_request and not missed:
                    self._hits += 1
                entry.take_lease()
                return entry, False
            await self._join(entry, on_progress)
            return entry, True

    async def _is_usable(self, entry: Entry, plan: LoadPlan, on_progress: ProgressCallback | None) -> bool:
        """True, without a pause: join this entry. False: look again, the entry has gone on."""
        if entry.state == "draining" or entry.doomed or entry.retiring:
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
        self._departures.leave(entry, "drain", f"{plan.cache_key} takes its place")
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
            self._departures.after_use(entry)

    async def _join(self, entry: Entry, on_progress: ProgressCallback | None) -> None:
        """Wait for a load to end and take a lease, or raise what the load ended with."""
        try:
            with entry.waiting(), entry.progress.listening(on_progress):
                await entry.settled.wait()
                self._crashes.notice(entry)
                # An unload that drains may have come in between: it waits for those who came before.
                if entry.state not in ("ready", "draining") or entry.retiring:
                    raise entry.failure()
                entry.take_lease()
        finally:
            self._departures.after_use(entry)

    def _release(self, entry: Entry, *, served: bool) -> None:
        entry.return_lease(served=served)
        self._departures.after_use(entry)
