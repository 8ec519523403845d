"""Workers that end, hang or grow while nobody told them to: noticed, told, and dealt with."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from samovar_server.cache.clock import Clock
from samovar_server.cache.departures import Departures
from samovar_server.cache.entry import Entry, Worker
from samovar_server.cache.ledger import Ledger, gigabytes
from samovar_server.cache.watch import Watch
from samovar_server.errors import ModelCrashed, SamovarError

DOUBT_SECONDS = 0.5
"""A dying process closes its connections before the system tells of its end. For so long after a
connection broke, new requests wait to see whether the worker ends."""


class Crashes:
    """Watches workers. One that is silent for `patience` seconds while it has requests is ended as hung."""

    def __init__(
        self,
        departures: Departures,
        ledger: Ledger,
        *,
        clock: Clock,
        log: logging.Logger,
        patience: float,
    ) -> None:
        self._departures = departures
        self._ledger = ledger
        self._clock = clock
        self._log = log
        self._patience = patience

    async def watch(self, entry: Entry, worker: Worker) -> None:
        """Notice at once when a worker ends by itself, and after a while when it hangs or grows."""
        watch = Watch(
            entry,
            clock=self._clock,
            patience=self._patience,
            on_hang=partial(self._hung, entry),
            on_growth=partial(self._grew, entry),
        )
        watching = self._departures.run(watch.run())
        try:
            how = await worker.exited()
        finally:
            watching.cancel()
        if not entry.retiring:  # it was not ended by us
            self._log.error("the worker of %s %s", entry.plan.model.name, how)
            self._crashed(entry, how)
        await worker.stop()

    def notice(self, entry: Entry) -> None:
        """Look whether the worker is gone, though `watch` has not been told yet."""
        if entry.state not in ("ready", "draining") or entry.retiring:
            return
        assert entry.worker is not None
        if not entry.worker.alive():
            self._crashed(entry, "ended")

    def failure(self, entry: Entry) -> SamovarError:
        """Why a request's connection to the worker of `entry` broke."""
        self.notice(entry)
        if entry.state == "ready" and not entry.retiring and entry.doubt is None:
            entry.doubt = asyncio.Event()
            self._clock.call_at(self._clock.now() + DOUBT_SECONDS, entry.end_doubt)
        return entry.failure()

    def correct(self, entry: Entry) -> None:
        """After an estimate that was too low: let idle models go, as a load of that size would have."""
        decision = self._ledger.excess(entry.plan.device)
        if decision.action == "refuse":
            missing = gigabytes(decision.missing_bytes)
            self._log.warning("models on %s take %s too much", entry.plan.device, missing)
        why = f"get back within the memory budget, as {entry.plan.model.name} takes more than estimated"
        self._departures.evict(decision.evict, entry, why)

    def _crashed(self, entry: Entry, how: str) -> None:
        error = crash(entry, how)
        if entry.state == "ready":
            self._departures.fail(entry, error)
        else:
            entry.blame(error)
        if entry.state == "draining":
            self._departures.leave(entry, "now", entry.reason)
        self._departures.announce()

    def _hung(self, entry: Entry, how: str) -> None:
        """End a worker that lives and is lost: its requests end with that, typed as a crash."""
        if entry.state not in ("ready", "draining") or entry.retiring:
            return
        self._log.error("the worker of %s %s", entry.plan.model.name, how)
        entry.blame(crash(entry, how))
        entry.retiring = True
        self._departures.run(self._stop_hung(entry))

    async def _stop_hung(self, entry: Entry) -> None:
        assert entry.worker is not None
        try:
            await entry.worker.stop()
        finally:
            if entry.state == "ready":  # until now, when its memory is free
                self._departures.fail(entry, entry.failure())
            else:
                self._departures.end(entry)
            self._departures.announce()

    def _grew(self, entry: Entry, memory_bytes: int) -> None:
        counted = entry.memory_bytes
        entry.memory_bytes = memory_bytes
        if entry.state != "ready":
            return
        entry.reason = f"takes {gigabytes(memory_bytes)}, more than the {gigabytes(counted)} it counted with"
        self._log.warning("%s %s", entry.plan.cache_key, entry.reason)
        entry.tell("ready")
        self.correct(entry)


def crash(entry: Entry, how: str) -> ModelCrashed:
    """What a crash or a hang means to requests; `how` follows the worker's name."""
    return ModelCrashed(
        f"The worker of {entry.plan.model.name} {how}. Send the request again to load the model afresh."
    )
