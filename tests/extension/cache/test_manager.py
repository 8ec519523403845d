from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from samovar_server.cache.lease import Lease
from samovar_server.cache.manager import PATIENCE_SECONDS, ModelCache
from samovar_server.cache.records import LoadedModel, ModelChange, QueueLength, TokensCounted
from samovar_server.cache.telling import Told
from samovar_server.cache.watch import POLL_SECONDS
from samovar_server.errors import (
    Conflict,
    InsufficientMemory,
    LoadFailed,
    ModelCrashed,
    ModelUnloaded,
    SamovarError,
)
from samovar_server.loader.options import LoadOptions, LoadProgress
from samovar_server.loader.status import WorkerStatus
from tests.fakes.in_memory import FakeLauncher, ManualClock, OneDevice, make_plan, settle

ANY = LoadOptions()
SIZES = [("small", 30), ("large", 50), ("huge", 101)]


async def load(
    cache: ModelCache, launcher: FakeLauncher, name: str, size: int = 10, *, pin: bool | None = None
) -> None:
    """Have a model in memory, used by nobody."""
    task = asyncio.create_task(cache.load(make_plan(name, size), pin=pin))
    await settle()
    launcher.loading[0].finish()
    await task
    await settle()


def states(cache: ModelCache) -> dict[str, str]:
    return {record.model: record.state for record in cache.loaded()}


def only(cache: ModelCache) -> LoadedModel:
    (record,) = cache.loaded()
    return record


@asynccontextmanager
async def leased(
    cache: ModelCache, launcher: FakeLauncher, name: str, size: int = 10
) -> AsyncIterator[Lease]:
    """Have a model in memory with a request under way."""
    await load(cache, launcher, name, size)
    async with cache.lease(make_plan(name, size)) as lease:
        yield lease


class Request:
    """A request as a task: it takes a lease and holds it until `end`."""

    def __init__(self, cache: ModelCache, name: str, size: int = 10, dtype: str = "float32") -> None:
        self._end = asyncio.Event()
        self.lease: Lease | None = None
        self.progress: list[LoadProgress] = []
        self.task = asyncio.create_task(self._run(cache, name, size, dtype))

    async def _run(self, cache: ModelCache, name: str, size: int, dtype: str) -> None:
        plan = make_plan(name, size, dtype=dtype)
        async with cache.lease(plan, on_progress=self.progress.append) as self.lease:
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task

    async def error(self) -> SamovarError:
        with pytest.raises(SamovarError) as caught:
            await self.task
        return caught.value


# Loading


async def test_the_first_request_loads_and_the_next_finds_it_ready(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    first = Request(cache, "a")
    await settle()
    assert states(cache) == {"a": "starting"}
    launcher.loading[0].finish(memory_bytes=7)
    await settle()
    second = Request(cache, "a")
    await settle()
    assert first.lease is not None
    assert second.lease is not None
    assert only(cache).in_flight == 2
    assert only(cache).memory_bytes == 7  # what the worker says counts, not the estimate
    await first.end()
    await second.end()
    stats = cache.stats()
    assert (stats.cache_hits, stats.cache_misses, stats.total_requests_served) == (1, 1, 2)
    assert stats.hit_rate == 0.5
    assert len(launcher.launched) == 1


async def test_equal_loads_join_and_everyone_sees_the_progress(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    requests = [Request(cache, "a"), Request(cache, "a")]
    await settle()
    launcher.loading[0].progress(0.5)
    late = Request(cache, "a")
    await settle()
    assert only(cache).queued == 3
    launcher.loading[0].progress(0.3)  # never falls
    launcher.loading[0].finish()
    await settle()
    assert [step.fraction for step in requests[0].progress] == [0.0, 0.5, 1.0]
    assert [step.fraction for step in late.progress] == [0.5, 1.0]
    for request in [*requests, late]:
        await request.end()
    assert len(launcher.launched) == 1


async def test_a_client_that_leaves_does_not_end_the_load_for_others(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    leaver, stayer = Request(cache, "a"), Request(cache, "a")
    await settle()
    leaver.task.cancel()
    await settle()
    assert only(cache).queued == 1
    launcher.loading[0].finish()
    await stayer.end()


async def test_a_load_that_nobody_awaits_any_more_still_completes(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    request = Request(cache, "a")
    await settle()
    request.task.cancel()
    await settle()
    launcher.loading[0].finish()
    await settle()
    assert states(cache) == {"a": "ready"}
    assert only(cache).ttl_remaining == 300


async def test_a_failed_load_tells_all_who_wait_and_is_tried_again_by_the_next(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    requests = [Request(cache, "a"), Request(cache, "a")]
    await settle()
    launcher.loading[0].fail(LoadFailed("the weights are damaged"))
    errors = [await request.error() for request in requests]
    assert [error.message for error in errors] == ["the weights are damaged"] * 2
    assert errors[0] is not errors[1]
    assert (only(cache).state, only(cache).error) == ("failed", "the weights are damaged")
    assert cache.find("a", ANY) is None
    await load(cache, launcher, "a")
    assert (only(cache).state, only(cache).error) == ("ready", None)


async def test_a_fault_of_our_own_is_logged_whole_and_told_without_detail(
    cache: ModelCache, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    request = Request(cache, "a")
    await settle()
    launcher.loading[0].fail(ZeroDivisionError("secret detail"))
    error = await request.error()
    assert isinstance(error, LoadFailed)
    assert "secret detail" not in error.message
    assert "secret detail" in caplog.text


async def test_a_listener_that_fails_disturbs_neither_the_load_nor_its_request(
    cache: ModelCache, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(step: LoadProgress) -> None:
        raise RuntimeError("listener")

    task = asyncio.create_task(cache.load(make_plan("a"), on_progress=fail))
    await settle()
    launcher.loading[0].finish()
    assert (await task).state == "ready"
    assert "listener" in caplog.text


# Time to live


async def test_the_time_to_live_counts_from_the_end_of_the_last_request(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock
) -> None:
    async with leased(cache, launcher, "a"):
        clock.advance(1000)
        await settle()
        assert only(cache).ttl_remaining is None
    clock.advance(299.999)
    await settle()
    assert only(cache).ttl_remaining == pytest.approx(0.001)
    clock.advance(0.001)
    await settle()
    assert cache.loaded() == []
    assert launcher.processes == []
    assert cache.stats().evictions == 0


async def test_a_request_may_change_the_time_to_live_and_zero_is_never(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock
) -> None:
    await load(cache, launcher, "a")
    async with cache.lease(make_plan("a"), ttl=0):
        pass
    clock.advance(10**6)
    await settle()
    assert (only(cache).ttl, only(cache).expires_at) == (0, None)
    async with cache.lease(make_plan("a"), ttl=5):
        pass
    async with cache.lease(make_plan("a")):  # says nothing, changes nothing
        pass
    assert only(cache).expires_at == clock.now() + 5
    clock.advance(5)
    await settle()
    assert cache.loaded() == []


async def test_a_model_may_be_unloaded_after_its_use_but_not_before(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock
) -> None:
    task = asyncio.create_task(cache.load(make_plan("a"), ttl=-1))
    await settle()
    launcher.loading[0].finish()
    await task
    assert only(cache).ttl_remaining == 300  # nobody has used it yet
    first, second = Request(cache, "a"), Request(cache, "a")
    await settle()
    await first.end()
    clock.advance(0)
    assert states(cache) == {"a": "ready"}
    await second.end()
    clock.advance(0)
    await settle()
    assert cache.loaded() == []
    assert launcher.processes == []


async def test_a_pin_can_be_taken_away(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock, told: list[Told]
) -> None:
    await load(cache, launcher, "a", pin=True)
    assert (await cache.load(make_plan("a"))).pinned
    assert not (await cache.load(make_plan("a"), pin=False)).pinned
    pins = [c.model.pinned for c in told if isinstance(c, ModelChange) and c.change == "pinned"]
    assert pins == [True, False]
    clock.advance(300)
    await settle()
    assert cache.loaded() == []


async def test_the_settings_can_pin_a_model_as_soon_as_it_comes(
    launcher: FakeLauncher, device: OneDevice, clock: ManualClock
) -> None:
    cache = ModelCache(
        launcher.launch,
        device,
        clock=clock,
        log=logging.getLogger("samovar"),
        default_ttl=300.0,
        tell=lambda told: None,
        is_pinned=lambda plan: plan.model.name == "a",
    )
    await load(cache, launcher, "a")
    await load(cache, launcher, "b")
    assert [record.pinned for record in cache.loaded()] == [True, False]
    await cache.close()


async def test_a_pinned_model_neither_expires_nor_makes_room(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock
) -> None:
    await load(cache, launcher, "a", 80, pin=True)
    clock.advance(10**6)
    await settle()
    assert (only(cache).state, only(cache).pinned) == ("ready", True)
    with pytest.raises(InsufficientMemory):
        await cache.load(make_plan("b", 50))


# Room


async def test_the_least_recently_used_idle_model_makes_room_and_the_log_says_so(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("a", "b"):
        await load(cache, launcher, name, 40)
        clock.advance(1)
    async with cache.lease(make_plan("a", 40)):
        clock.advance(1)
    await load(cache, launcher, "c", 40)
    assert states(cache) == {"a": "ready", "c": "ready"}
    assert cache.stats().evictions == 1
    assert "evicting b" in caplog.text


async def test_a_load_starts_only_once_the_evicted_process_is_gone(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    launcher.stops_at_once = False
    await load(cache, launcher, "a", 80)
    request = Request(cache, "b", 80)
    await settle()
    assert states(cache) == {"a": "draining", "b": "starting"}
    assert request.progress == [LoadProgress("queued", 0.0)]
    assert [process.plan.model.name for process in launcher.processes] == ["a"]
    launcher.processes[0].end()
    await settle()
    launcher.loading[0].finish()
    await request.end()


async def test_a_later_small_load_does_not_take_the_room_promised_to_an_earlier_one(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    launcher.stops_at_once = False
    await load(cache, launcher, "idle", 50)
    large, small = Request(cache, "large", 90), Request(cache, "small", 30)
    await settle()
    # 50 bytes are free, so small would fit now; large needs them together with what idle gives back.
    assert launcher.loading == []
    assert isinstance(await small.error(), InsufficientMemory)
    launcher.processes[0].end()
    await settle()
    launcher.loading[0].finish()
    await large.end()


async def test_when_nothing_idle_can_go_the_error_says_what_is_needed(
    cache: ModelCache, launcher: FakeLauncher, device: OneDevice
) -> None:
    gb = 10**9
    device.budget = 10 * gb
    await load(cache, launcher, "idle", 2 * gb)
    async with leased(cache, launcher, "busy", 6 * gb):
        with pytest.raises(InsufficientMemory) as caught:
            await cache.load(make_plan("new", 5 * gb))
    message = caught.value.message
    assert "new needs about 5.0 GB of cpu memory" in message
    assert "2.0 GB of the budget of 10.0 GB is free" in message
    assert "could go: idle (2.0 GB); 1.0 GB would still be missing" in message
    assert "unload a model that is busy or pinned" in message
    assert states(cache) == {"idle": "ready", "busy": "ready"}


async def test_an_estimate_that_was_too_low_is_corrected_and_idle_models_go(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    await load(cache, launcher, "idle", 40)
    request = Request(cache, "b", 40)
    await settle()
    launcher.loading[0].finish(memory_bytes=90)
    await settle()
    assert states(cache) == {"b": "ready"}
    assert cache.stats().memory[0].used_bytes == 90
    await request.end()


async def test_one_model_alone_beyond_the_budget_stays_and_the_log_warns(
    cache: ModelCache, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    request = Request(cache, "a")
    await settle()
    launcher.loading[0].finish(memory_bytes=10**9)
    await settle()
    assert states(cache) == {"a": "ready"}
    assert "too much" in caplog.text
    await request.end()


async def test_the_request_that_caused_evictions_is_told_of_them_and_no_other(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    await load(cache, launcher, "a", 40)
    await load(cache, launcher, "b", 40)
    request = Request(cache, "c", 90)
    await settle()
    launcher.loading[0].finish()
    await settle()
    assert request.lease is not None
    assert request.lease.evicted == tuple(make_plan(name).cache_key for name in ("a", "b"))
    later = Request(cache, "c", 90)
    await settle()
    assert later.lease is not None
    assert later.lease.evicted == ()
    await request.end()
    await later.end()
    task = asyncio.create_task(cache.load(make_plan("d", 50)))
    await settle()
    launcher.loading[0].finish()
    assert (await task).evicted == [make_plan("c").cache_key]
    assert (await cache.load(make_plan("d", 50))).evicted == []


async def test_a_worker_that_grows_is_counted_as_it_is_and_idle_models_make_room(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock, told: list[Told]
) -> None:
    await load(cache, launcher, "idle", 40)
    async with leased(cache, launcher, "b", 40):
        launcher.processes[1].answer = WorkerStatus(memory_bytes=70)
        clock.advance(POLL_SECONDS)
        await settle()
        assert states(cache) == {"b": "ready"}
        assert only(cache).memory_bytes == 70
        assert "more than" in (only(cache).reason or "")
        assert cache.stats().memory[0].used_bytes == 70
    reasons = [c.reason for c in told if isinstance(c, ModelChange) and c.change == "ready"]
    assert "takes" in (reasons[-1] or "")


async def test_the_estimate_says_what_would_go_and_changes_nothing(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    await load(cache, launcher, "a", 60)
    before = cache.loaded()
    small, large, huge = (cache.estimate(make_plan(name, size), "disk") for name, size in SIZES)
    assert (small.fits, small.would_evict, small.free_bytes) == (True, [], 40)
    assert (large.fits, large.would_evict) == (True, [make_plan("a").cache_key])
    assert (huge.fits, huge.would_evict) == (False, [])
    assert cache.loaded() == before


# Unloading


async def test_drain_lets_requests_end_and_new_ones_wait_for_a_fresh_copy(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(leased(cache, launcher, "a"))
        unload = asyncio.create_task(cache.unload(lambda _: True, "drain"))
        new = Request(cache, "a")
        await settle()
        assert (only(cache).state, only(cache).in_flight, only(cache).queued) == ("draining", 1, 1)
        assert not unload.done()
    assert [record.state for record in await unload] == ["stopped"]
    await settle()
    launcher.loading[0].finish()
    await new.end()
    assert len(launcher.launched) == 2


async def test_a_drain_goes_on_when_the_one_who_asked_for_it_leaves(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    async with leased(cache, launcher, "a"):
        unload = asyncio.create_task(cache.unload(lambda _: True, "drain"))
        await settle()
        unload.cancel()
    await settle()
    assert cache.loaded() == []


async def test_now_ends_running_requests_with_a_typed_error(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    async with leased(cache, launcher, "a") as lease:
        await cache.unload(lambda _: True, "now")
        assert launcher.processes == []
        assert isinstance(lease.failure(), ModelUnloaded)
    assert cache.loaded() == []


async def test_now_hurries_a_drain(cache: ModelCache, launcher: FakeLauncher) -> None:
    async with leased(cache, launcher, "a") as lease:
        drain = asyncio.create_task(cache.unload(lambda _: True, "drain"))
        await settle()
        await cache.unload(lambda _: True, "now")
        assert isinstance(lease.failure(), ModelUnloaded)
        await drain


async def test_unloading_a_model_that_is_being_loaded_cancels_the_load(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    request = Request(cache, "a")
    await settle()
    unload = asyncio.create_task(cache.unload(lambda _: True, "drain"))
    again = Request(cache, "a")
    assert isinstance(await request.error(), ModelUnloaded)
    await unload
    await settle()
    launcher.loading[0].finish()  # the one who came later gets a load of its own
    await again.end()
    assert len(launcher.launched) == 2


async def test_unloading_in_the_moment_a_load_begins_leaves_nothing_behind(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    request = Request(cache, "a")
    await asyncio.sleep(0)  # the load's task exists and has not run yet
    assert states(cache) == {"a": "starting"}
    assert launcher.launched == []
    await cache.unload(lambda _: True, "now")
    assert isinstance(await request.error(), ModelUnloaded)
    assert cache.loaded() == []


async def test_unloading_in_the_moment_a_load_ends_leaves_nothing_behind(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    request = Request(cache, "a")
    await settle()
    launcher.loading[0].finish()
    for _ in range(12):
        await cache.unload(lambda _: True, "now")
    assert isinstance(await request.error(), ModelUnloaded)
    assert launcher.processes == []
    assert cache.loaded() == []


async def test_unloading_forgets_a_failed_load(cache: ModelCache, launcher: FakeLauncher) -> None:
    request = Request(cache, "a")
    await settle()
    launcher.loading[0].fail(LoadFailed("no"))
    await request.error()
    await cache.unload(lambda _: True)
    assert cache.loaded() == []


# Other options


async def test_other_options_replace_the_copy_once_its_work_has_drained(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    async with leased(cache, launcher, "a"):
        other = Request(cache, "a", dtype="bfloat16")
        await settle()
        assert (only(cache).state, only(cache).dtype) == ("draining", "float32")
        assert len(launcher.launched) == 1
    await settle()
    launcher.loading[0].finish()
    await settle()
    assert (only(cache).state, only(cache).dtype) == ("ready", "bfloat16")
    indifferent = Request(cache, "a")  # asks for nothing in particular, takes what is there
    await settle()
    assert indifferent.lease is not None
    await indifferent.end()
    await other.end()


async def test_a_copy_that_is_being_loaded_serves_those_who_wait_before_it_is_replaced(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    first = Request(cache, "a")
    await settle()
    other = Request(cache, "a", dtype="bfloat16")
    await settle()
    launcher.loading[0].finish()
    await settle()
    assert first.lease is not None
    assert other.lease is None
    await first.end()
    await settle()
    launcher.loading[0].finish()
    await other.end()


async def test_a_pinned_copy_is_not_replaced(cache: ModelCache, launcher: FakeLauncher) -> None:
    await load(cache, launcher, "a", pin=True)
    with pytest.raises(Conflict, match="pinned in memory with other load options"):
        await cache.load(make_plan("a", dtype="bfloat16"))
    assert states(cache) == {"a": "ready"}


async def test_a_replacement_that_cannot_fit_leaves_the_copy_alone(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    await load(cache, launcher, "a")
    with pytest.raises(InsufficientMemory):
        await cache.load(make_plan("a", 101, dtype="bfloat16"))
    assert states(cache) == {"a": "ready"}


# Crashes


async def test_a_crash_is_a_typed_error_and_the_next_request_loads_afresh(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    async with leased(cache, launcher, "a") as lease:
        launcher.processes[0].end("was killed")
        await settle()
        assert isinstance(lease.failure(), ModelCrashed)
        assert (only(cache).state, only(cache).memory_bytes) == ("failed", 10)
        assert cache.used_bytes() == {}
        assert "was killed" in (only(cache).error or "")
        again = Request(cache, "a")
        await settle()
        launcher.loading[0].finish()
        await again.end()
    assert only(cache).in_flight == 0


async def test_a_worker_that_is_dead_but_not_yet_reported_gets_no_request(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    await load(cache, launcher, "a")
    launcher.processes[0].end()
    request = Request(cache, "a")
    await settle()
    assert len(launcher.launched) == 2
    launcher.loading[0].finish()
    await request.end()


async def test_a_crash_ends_a_drain(cache: ModelCache, launcher: FakeLauncher) -> None:
    async with leased(cache, launcher, "a") as lease:
        unload = asyncio.create_task(cache.unload(lambda _: True, "drain"))
        await settle()
        launcher.processes[0].end()
        await unload
        assert isinstance(lease.failure(), ModelCrashed)
    assert cache.loaded() == []


async def test_a_broken_connection_to_a_worker_that_lives_is_a_crash_to_the_client_only(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock
) -> None:
    async with leased(cache, launcher, "a") as lease:
        assert isinstance(lease.failure(), ModelCrashed)
        again = Request(cache, "a")
        await settle()
        assert again.lease is None  # is the worker about to end?
        clock.advance(1)
        await settle()
        assert again.lease is not None  # no
        assert len(launcher.launched) == 1
        await again.end()


async def test_a_worker_whose_connections_broke_before_its_end_was_told_gets_no_request(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    async with leased(cache, launcher, "a") as lease:
        assert isinstance(lease.failure(), ModelCrashed)
        again = Request(cache, "a")
        await settle()
        launcher.processes[0].end()
        await settle()
        launcher.loading[0].finish()
        await again.end()
        assert len(launcher.launched) == 2


async def test_a_worker_that_hangs_is_ended_and_its_requests_are_told(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock
) -> None:
    launcher.stops_at_once = False
    async with leased(cache, launcher, "a") as lease:
        (worker,) = launcher.processes
        worker.answer = None
        for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
            assert not worker.is_stopping
            clock.advance(POLL_SECONDS)
            await settle()
        assert worker.is_stopping
        assert isinstance(lease.failure(), ModelCrashed)
        assert "hung" in lease.failure().message
        again = Request(cache, "a")
        await settle()
        assert launcher.loading == []  # the hung process still has its memory
        worker.end()
        await settle()
        launcher.loading[0].finish()
        await again.end()
    assert only(cache).state == "ready"


async def test_a_worker_without_requests_is_left_in_peace(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock
) -> None:
    await load(cache, launcher, "a")
    async with cache.lease(make_plan("a"), ttl=0):
        pass
    launcher.processes[0].answer = None
    for _ in range(100):
        clock.advance(POLL_SECONDS)
        await settle()
    assert states(cache) == {"a": "ready"}


async def test_a_model_that_keeps_failing_is_tried_again_after_longer_and_longer_pauses(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock
) -> None:
    async def fail() -> SamovarError:
        request = Request(cache, "a")
        await settle()
        launcher.loading[0].fail(LoadFailed("the weights are damaged."))
        return await request.error()

    for _ in range(3):  # after one and after two at once
        assert (await fail()).retry_after is None
    early = await Request(cache, "a").error()
    assert isinstance(early, LoadFailed)
    assert early.retry_after == 1
    assert "the weights are damaged. It has failed 3 times in a row" in early.message
    clock.advance(1)
    await fail()
    assert (await Request(cache, "a").error()).retry_after == 2
    await load(cache, launcher, "a")  # asked for by name, it is tried at once
    async with cache.lease(make_plan("a")):
        pass  # and as it works, all is forgiven
    launcher.processes[0].end()
    await settle()
    again = Request(cache, "a")
    await settle()
    launcher.loading[0].finish()
    await again.end()


async def test_what_a_worker_has_computed_is_counted_once(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock, told: list[Told]
) -> None:
    async with leased(cache, launcher, "a"):
        for generated in (5, 5, 7, 6):  # the last answer was overtaken
            launcher.processes[0].answer = WorkerStatus(prompt_tokens=3, generated_tokens=generated)
            clock.advance(POLL_SECONDS)
            await settle()
        launcher.processes[0].answer = WorkerStatus(prompt_tokens=3, generated_tokens=9)
    await cache.unload(lambda _: True)
    counts = [c for c in told if isinstance(c, TokensCounted)]
    assert [(c.prompt_tokens, c.generated_tokens) for c in counts] == [(3, 5), (0, 2), (0, 2)]


# The end


async def test_close_ends_everything_and_refuses_what_comes_after(
    cache: ModelCache, launcher: FakeLauncher
) -> None:
    async with leased(cache, launcher, "a") as lease:
        starting = Request(cache, "b")
        await settle()
        await cache.close()
        assert isinstance(lease.failure(), ModelUnloaded)
        assert isinstance(await starting.error(), ModelUnloaded)
        assert launcher.processes == []
        assert cache.loaded() == []
        with pytest.raises(ModelUnloaded):
            await cache.load(make_plan("a"))
    await cache.close()


async def test_a_secret_is_in_no_representation(cache: ModelCache, launcher: FakeLauncher) -> None:
    async with leased(cache, launcher, "a") as lease:
        assert lease.secret not in repr(lease)


# What is told


async def test_every_change_of_a_model_is_told_with_its_reason(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock, told: list[Told]
) -> None:
    task = asyncio.create_task(cache.load(make_plan("a", 60)))
    await settle()
    launcher.loading[0].progress(0.5)
    launcher.loading[0].finish()
    await task
    await load(cache, launcher, "b", 60, pin=True)
    launcher.processes[0].end("was killed")
    await settle()
    changes = [(c.change, c.model.model, c.reason) for c in told if isinstance(c, ModelChange)]
    assert [change for change in changes if change[0] != "progress"] == [
        ("starting", "a", None),
        ("ready", "a", None),
        ("starting", "b", None),
        ("pinned", "b", None),
        ("evicted", "a", "evicted to make room for b"),
        ("draining", "a", "evicted to make room for b"),
        ("stopped", "a", "evicted to make room for b"),
        ("ready", "b", None),
        ("failed", "b", "The worker of b was killed. Send the request again to load the model afresh."),
    ]
    steps = [c.progress.fraction for c in told if isinstance(c, ModelChange) and c.progress]
    assert steps == [0.5, 1.0, 1.0]


async def test_the_lengths_of_queues_are_told_now_and_then(
    cache: ModelCache, launcher: FakeLauncher, clock: ManualClock, told: list[Told]
) -> None:
    requests = [Request(cache, "a") for _ in range(3)]
    await settle()
    clock.advance(1)
    launcher.loading[0].finish()
    await settle()
    clock.advance(1)
    for request in requests:
        await request.end()
    clock.advance(1)
    clock.advance(1)
    lengths = [(change.running, change.waiting) for change in told if isinstance(change, QueueLength)]
    assert lengths == [(0, 3), (3, 0), (0, 0)]
