"""How models come into memory: a load, the room it needs, and what it ends with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any

from samovar_server.cache.clock import Clock
from samovar_server.cache.crashes import Crashes
from samovar_server.cache.departures import Departures
from samovar_server.cache.entry import Entry, Worker
from samovar_server.cache.ledger import Ledger, gigabytes
from samovar_server.cache.telling import Telling
from samovar_server.errors import InsufficientMemory, LoadFailed, SamovarError
from samovar_server.loader.options import LoadProgress, ProgressCallback
from samovar_server.loader.plan import LoadPlan

Launch = Callable[[LoadPlan, ProgressCallback], Coroutine[Any, Any, Worker]]
"""Loads a model into a new worker; when it raises or is cancelled, no process is left."""


class Arrivals:
    """Fills `entries`. `default_ttl` is in seconds; `is_pinned` says what is pinned as soon as it comes."""

    def __init__(
        self,
        launch: Launch,
        entries: dict[str, Entry],
        ledger: Ledger,
        departures: Departures,
        crashes: Crashes,
        *,
        clock: Clock,
        log: logging.Logger,
        telling: Telling,
        default_ttl: float,
        is_pinned: Callable[[LoadPlan], bool],
    ) -> None:
        self._launch = launch
        self._entries = entries
        self._ledger = ledger
        self._departures = departures
        self._crashes = crashes
        self._clock = clock
        self._log = log
        self._telling = telling
        self._default_ttl = default_ttl
        self._is_pinned = is_pinned
        self._loads = 0

    def begin(self, plan: LoadPlan, *, at_once: bool) -> Entry:
        """Start a load. `at_once`: also when the model has just failed several times.

        Raises what it failed with, and when to try again, while it is too early for another attempt.
        """
        failed = self._entries.get(plan.identity)
        if failed is not None and not at_once:
            self._departures.refuse_if_too_early(failed)
        self._entries.pop(plan.identity, None)
        self._loads += 1
        entry = Entry(
            plan,
            number=self._loads,
            ttl=self._default_ttl,
            pinned=self._is_pinned(plan),
            now=self._clock.now,
            telling=self._telling,
            log=self._log,
        )
        self._entries[plan.identity] = entry
        self._log.info("loading %s (about %s)", plan.cache_key, gigabytes(entry.memory_bytes))
        entry.load_task = self._departures.run(self._bring_up(entry))
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
            self._departures.evict(decision.evict, entry, f"make room for {entry.plan.model.name}")
            await self._departures.change()

    def _load_ended(self, entry: Entry, task: asyncio.Task[Worker]) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (error is not None and entry.doomed):
            self._departures.end(entry)
        elif isinstance(error, InsufficientMemory) and not entry.has_room:
            entry.blame(error)  # nothing was tried, so there is nothing to show as failed
            self._departures.end(entry)
        elif error is not None:
            self._load_failed(entry, error)
        else:
            self._became_ready(entry, task.result())
        self._departures.announce()

    def _load_failed(self, entry: Entry, error: BaseException) -> None:
        name = entry.plan.model.name
        if isinstance(error, SamovarError):
            self._log.error("loading %s failed: %s", name, error.message)
        else:
            self._log.error("loading %s failed", name, exc_info=error)
            error = LoadFailed(f"{name} could not be loaded, by a fault of samovar's: see the server's log.")
        self._departures.fail(entry, error)

    def _became_ready(self, entry: Entry, worker: Worker) -> None:
        entry.worker = worker
        entry.loaded_at = entry.last_used = self._clock.now()
        entry.memory_bytes = worker.ready.memory_bytes
        entry.progress.report(LoadProgress("ready", 1.0))
        entry.move("ready")
        self._log.info("loaded %s (%s)", entry.plan.cache_key, gigabytes(entry.memory_bytes))
        self._departures.run(self._crashes.watch(entry, worker), context=Context())  # nobody's request
        if entry.doomed:
            self._departures.leave(entry, "now", entry.reason)
        else:
            self._crashes.correct(entry)
