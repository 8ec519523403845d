"""Thousands of random histories of a cache, checked after every event against what must always hold."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress

from samovar_server.cache.crashes import DOUBT_SECONDS
from samovar_server.cache.lease import Lease
from samovar_server.cache.manager import Mode, ModelCache
from samovar_server.cache.records import ModelChange
from samovar_server.cache.telling import Told
from samovar_server.errors import (
    Conflict,
    InsufficientMemory,
    LoadFailed,
    ModelCrashed,
    ModelUnloaded,
    SamovarError,
)
from tests.fakes.in_memory import FakeLauncher, FakeProcess, ManualClock, OneDevice, make_plan, settle

SEQUENCES = 2000
EVENTS = 30
BUDGET = 100
SIZES = {"a": 30, "b": 40, "c": 60, "d": 90, "e": 20}
MILLISECOND = 0.001
LIVES = re.compile(
    r"( ?starting( ready( evicted)? draining)? stopped| ?starting( ready)? failed( stopped)?)*"
)


class Client:
    """One request: waits for a lease, holds it until it is told to end."""

    def __init__(self, world: World, name: str, dtype: str, ttl: float | None) -> None:
        self.name = name
        self.lease: Lease | None = None
        self.process: FakeProcess | None = None
        self.end = asyncio.Event()
        self.error: SamovarError | None = None
        self.task = asyncio.create_task(self._run(world, dtype, ttl))

    async def _run(self, world: World, dtype: str, ttl: float | None) -> None:
        plan = make_plan(self.name, SIZES[self.name], dtype=dtype)
        try:
            async with world.cache.lease(plan, ttl=ttl) as self.lease:
                (self.process,) = (p for p in world.launcher.processes if p.plan.model.name == self.name)
                world.granted += 1
                try:
                    await self.end.wait()
                finally:
                    world.released += 1
        except SamovarError as error:
            self.error = error

    @property
    def is_holding(self) -> bool:
        return self.lease is not None and not self.task.done()


class EvictionWatcher(logging.Handler):
    """Every eviction is logged, at the moment it is decided: whom does it hit?"""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        if not record.msg.startswith("evicting"):
            return
        assert isinstance(record.args, tuple)
        (victim,) = (one for one in self.world.cache.loaded() if one.cache_key == record.args[0])
        assert victim.state == "ready"
        assert not victim.pinned
        assert (victim.in_flight, victim.queued) == (0, 0)
        self.world.evictions += 1


class World:
    """A cache, everything that may happen to it, and what must hold whatever happens."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.launcher = FakeLauncher(stops_at_once=False)
        log = logging.getLogger("tests.random_sequences")
        log.setLevel(logging.INFO)
        log.propagate = False
        log.handlers = [EvictionWatcher(self)]
        self.told: list[Told] = []
        self.cache = ModelCache(
            self.launcher.launch,
            OneDevice(BUDGET),
            clock=self.clock,
            log=log,
            default_ttl=50 * MILLISECOND,
            patience=40 * MILLISECOND,
            tell=self.told.append,
        )
        self.evictions = 0
        self.clients: list[Client] = []
        self.others: list[asyncio.Task[None]] = []
        self.granted = self.released = 0
        self.ordered_out: dict[str, Mode] = {}
        self.doubt_until = 0.0
        self.happened: set[tuple[type[SamovarError], str]] = set()
        self.pinned: set[FakeProcess] = set()
        self.unpinned: set[str] = set()

    # What may happen

    def request(self) -> None:
        ttl = self.rng.choice([None, None, None, 0.0, -1.0, 10 * MILLISECOND])
        dtype = self.rng.choice(["float32"] * 5 + ["bfloat16"])
        self.clients.append(Client(self, self.rng.choice(list(SIZES)), dtype, ttl))

    def load_pinned(self) -> None:
        self._load(pin=True)

    def load(self) -> None:
        self._load(pin=None)

    def unpin(self) -> None:
        self.unpinned.add(self._load(pin=False))

    def _load(self, *, pin: bool | None) -> str:
        name = self.rng.choice(list(SIZES))
        self._run(self.cache.load(make_plan(name, SIZES[name]), pin=pin))
        return name

    def end_a_request(self) -> None:
        if holding := [client for client in self.clients if client.is_holding]:
            self.rng.choice(holding).end.set()

    def lose_a_client(self) -> None:
        if open_ones := [client for client in self.clients if not client.task.done()]:
            self.rng.choice(open_ones).task.cancel()

    def finish_a_load(self) -> None:
        if loading := self.launcher.loading:
            process = self.rng.choice(loading)
            process.finish(self.rng.randint(process.memory_bytes // 2, process.memory_bytes))

    def fail_a_load(self) -> None:
        if loading := self.launcher.loading:
            process = self.rng.choice(loading)
            process.fail(self.rng.choice([LoadFailed("no"), OSError("surprise")]))
            self.happened.add((LoadFailed, process.plan.model.name))

    def crash(self) -> None:
        if running := [p for p in self.launcher.processes if not p.is_loading and not p.is_stopping]:
            process = self.rng.choice(running)
            process.end()
            self.happened.add((ModelCrashed, process.plan.model.name))

    def hang(self) -> None:
        if running := [p for p in self.launcher.processes if not p.is_loading]:
            process = self.rng.choice(running)
            process.answer = None
            self.happened.add((ModelCrashed, process.plan.model.name))

    def estimate(self) -> None:
        name, before = self.rng.choice(list(SIZES)), self.cache.loaded()
        estimate = self.cache.estimate(make_plan(name, SIZES[name]), "disk")
        assert self.cache.loaded() == before
        assert estimate.fits or not estimate.would_evict
        could_go = {r.cache_key for r in before if r.state == "ready" and not r.pinned and not r.in_flight}
        assert set(estimate.would_evict) <= could_go

    def break_a_connection(self) -> None:
        if holding := [client.lease for client in self.clients if client.is_holding]:
            lease = self.rng.choice(holding)
            assert lease is not None
            assert isinstance(lease.failure(), ModelCrashed | ModelUnloaded)
            self.doubt_until = self.clock.now() + DOUBT_SECONDS

    def complete_a_stop(self) -> None:
        if stopping := [process for process in self.launcher.processes if process.is_stopping]:
            self.rng.choice(stopping).end()

    def pass_time(self) -> None:
        self.clock.advance(self.rng.choice([1, 5, 20, 60]) * MILLISECOND)

    def unload(self) -> None:
        name = self.rng.choice(list(SIZES))
        mode: Mode = self.rng.choice(["drain", "drain", "now"])
        if name in {record.model for record in self.cache.loaded()}:
            self.ordered_out[name] = "now" if "now" in (mode, self.ordered_out.get(name)) else "drain"
            self._run(self.cache.unload(lambda entry: entry.plan.model.name == name, mode))
            self.happened.add((ModelUnloaded, name))

    def _run(self, work: Awaitable[object]) -> None:
        async def quietly() -> None:
            with suppress(SamovarError):
                await work

        self.others.append(asyncio.create_task(quietly()))

    async def random_event(self) -> None:
        happenings = {
            self.request: 10,
            self.end_a_request: 7,
            self.finish_a_load: 6,
            self.complete_a_stop: 5,
            self.pass_time: 3,
            self.lose_a_client: 2,
            self.load: 1,
            self.load_pinned: 1,
            self.unpin: 0.3,
            self.estimate: 1,
            self.hang: 0.3,
            self.unload: 2,
            self.crash: 1,
            self.break_a_connection: 1,
            self.fail_a_load: 1,
        }
        (event,) = self.rng.choices(list(happenings), list(happenings.values()))
        event()
        # Sometimes the next event comes before this one has been dealt with.
        for _ in range(self.rng.choice([0, 1, 2, 3])):
            await asyncio.sleep(0)

    # What must hold

    def check(self) -> None:
        processes, records = self.launcher.processes, self.cache.loaded()
        assert sum(process.memory_bytes for process in processes) <= BUDGET, "over budget"

        per_model = Counter(process.plan.identity for process in processes)
        assert all(count == 1 for count in per_model.values()), "two copies of one model"

        for client in self.clients:
            process = client.process
            if client.is_holding and process is not None and process.is_stopping:
                was_ordered = self.ordered_out.get(client.name) == "now"
                is_lost = process.answer is None or not process.alive()
                assert was_ordered or is_lost, "a model in use was taken away"

        self.pinned = {process for process in self.pinned if process in processes}
        for process in self.pinned:
            name = process.plan.model.name
            may_go = name in self.ordered_out or name in self.unpinned or process.answer is None
            assert not process.is_stopping or may_go, "pinned one left"
        for record in records:
            if record.pinned and record.state == "ready":
                self.pinned |= {p for p in processes if str(p.plan.model.path) == record.model_path}

        now = self.clock.now()
        assert all(record.expires_at is None or record.expires_at > now for record in records), "overdue"

        models_on_their_way_out = {r.model for r in records if r.state == "draining" or r.state == "starting"}
        self.ordered_out = {k: v for k, v in self.ordered_out.items() if k in models_on_their_way_out}

    def check_accounts(self) -> None:
        """Only when everything that could happen has happened."""
        records, stats = self.cache.loaded(), self.cache.stats()
        assert stats.total_requests_served == self.released
        assert stats.evictions == self.evictions
        resident = [record for record in records if record.state in ("ready", "draining")]
        assert stats.total_models_loaded == len(resident)
        loading = sum(process.memory_bytes for process in self.launcher.processes if process.is_loading)
        assert self.cache.used_bytes().get("cpu", 0) == loading + sum(r.memory_bytes for r in resident)
        for record in records:
            mine = [client for client in self.clients if client.name == record.model]
            if record.state == "ready":
                assert record.in_flight == sum(
                    client.is_holding and client.process is not None and client.process.alive()
                    for client in mine
                )

    def check_told(self) -> None:
        """All that was told of a model makes a life, or several: nothing is left out, nothing is made up."""
        changes = [told for told in self.told if isinstance(told, ModelChange)]
        assert self.evictions == sum(change.change == "evicted" for change in changes)
        for name in SIZES:
            life = " ".join(change.change for change in changes if change.model.model == name)
            assert LIVES.fullmatch(re.sub(r" ?(progress|pinned)", "", life).strip()), life

    async def finish(self) -> None:
        """Let all that is under way come to its end: whoever still waits then was forgotten."""
        while True:
            await settle()
            self.check()
            self.check_accounts()
            busy = [p for p in self.launcher.processes if p.is_loading or p.is_stopping]
            holding = [client for client in self.clients if client.is_holding and not client.end.is_set()]
            for process in busy:
                process.finish() if process.is_loading else process.end()
            for client in holding:
                client.end.set()
            if busy or holding:
                continue
            if self.clock.now() >= self.doubt_until:
                break
            self.clock.advance(self.doubt_until - self.clock.now())
        assert all(client.task.done() for client in self.clients), "a request was forgotten"
        assert all(task.done() for task in self.others), "a load or unload was forgotten"
        stats = self.cache.stats()
        assert stats.total_requests_served == self.granted == self.released
        for client in self.clients:
            error = client.error
            allowed = error is None or isinstance(error, Conflict | InsufficientMemory)
            assert allowed or (type(error), client.name) in self.happened, f"{error!r} out of nothing"
        # Every request was a hit or a miss, except those that were refused before either.
        refused = sum(
            isinstance(client.error, Conflict | InsufficientMemory)
            or (client.error is not None and client.error.retry_after is not None)
            for client in self.clients
        )
        unstarted = sum(client.task.cancelled() and client.lease is None for client in self.clients)
        counted = stats.cache_hits + stats.cache_misses
        assert len(self.clients) - refused - unstarted <= counted <= len(self.clients)
        assert 0 <= stats.hit_rate <= 1


async def play(seed: int) -> World:
    world = World(seed)
    try:
        for _ in range(EVENTS):
            await world.random_event()
            if world.rng.random() < 0.5:
                await settle()
                world.check()
                world.check_accounts()
        await world.finish()
        closing = asyncio.create_task(world.cache.close())
        await settle()
        for process in list(world.launcher.processes):
            process.end()
        await closing
        assert world.launcher.processes == []
        assert world.cache.loaded() == []
        world.check_told()
        for task in [*(client.task for client in world.clients), *world.others]:
            if not task.cancelled():
                task.result()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return world


async def test_whatever_happens_in_whatever_order_the_promises_hold() -> None:
    evictions = granted = 0
    for seed in range(SEQUENCES):
        world = await play(seed)
        evictions += world.cache.stats().evictions
        granted += world.granted
    # The histories are eventful enough to mean something.
    assert evictions > SEQUENCES / 4
    assert granted > SEQUENCES * 2
