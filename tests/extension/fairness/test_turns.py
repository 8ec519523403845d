"""Waiting for a turn: who is refused, who gives up, what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from samovar_server.errors import QueueFull
from samovar_server.fairness.policy import Capacity, Costs, Request
from samovar_server.fairness.turns import Turns

MODEL = "tiny|transformers"


class Scene:
    """Users who hold their turns until they are told to end."""

    def __init__(self, capacity: Capacity, max_queue: int = 8) -> None:
        self.now = 100.0
        self.capacity = capacity
        self.turns = Turns(Costs(), max_queue, lambda: self.now)
        self.told_waiting = 0
        self.order: list[str] = []
        self.visits: list[Visit] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self.told_waiting += 1
        try:
            yield
        finally:
            self.told_waiting -= 1

    async def come(self, user: str, sequences: int = 1) -> Visit:
        visit = Visit(self, user, sequences)
        self.visits.append(visit)
        await asyncio.sleep(0)  # it comes as far as it can
        await asyncio.sleep(0)
        return visit


class Visit:
    def __init__(self, scene: Scene, user: str, sequences: int) -> None:
        self.request = Request(user, 10, sequences)
        self.begun, self._end = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run(scene))

    async def _run(self, scene: Scene) -> None:
        async with scene.turns.turn(MODEL, scene.capacity, self.request, scene.waiting) as turn:
            self.turn = turn
            scene.order.append(self.request.user)
            self.begun.set()
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task
        await asyncio.sleep(0)


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[MakeScene]:
    made: list[Scene] = []

    def make(capacity: Capacity, max_queue: int = 8) -> Scene:
        made.append(Scene(capacity, max_queue))
        return made[-1]

    async def close() -> None:
        tasks = [visit.task for scene in made for visit in scene.visits]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    yield make
    jp_asyncio_loop.run_until_complete(close())


async def test_a_free_slot_is_had_at_once_and_nobody_is_told_of_waiting(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1))
    async with scene.turns.turn(MODEL, scene.capacity, Request("ada", 10), scene.waiting):
        assert scene.told_waiting == 0
        assert scene.turns.waiting(MODEL) == 0


async def test_who_has_had_less_is_next_whoever_came_first(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1))
    first = await scene.come("ada")
    others = [await scene.come("ada") for _ in range(3)]
    bob = await scene.come("bob")
    assert scene.turns.waiting(MODEL) == scene.told_waiting == 4
    first.turn.charge(output=50)
    await first.end()
    assert bob.begun.is_set()
    await bob.end()
    for visit in others:
        await visit.end()
    assert scene.order == ["ada", "bob", "ada", "ada", "ada"]
    assert scene.turns.waiting(MODEL) == scene.told_waiting == 0


async def test_one_user_at_one_model_does_not_wait_for_those_at_another(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1))
    await scene.come("ada")
    async with scene.turns.turn("other|model", scene.capacity, Request("ada", 10), scene.waiting):
        assert scene.told_waiting == 0


async def test_who_gives_up_takes_nobodys_place(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1))
    running = await scene.come("ada")
    gone, patient = await scene.come("bob"), await scene.come("cleo")
    gone.task.cancel()
    await asyncio.wait({gone.task})
    await running.end()
    assert patient.begun.is_set()
    assert not gone.begun.is_set()
    await patient.end()


async def test_who_gives_up_in_the_moment_of_his_turn_passes_it_on(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1))
    running, gone, patient = [await scene.come(user) for user in ("ada", "bob", "cleo")]
    running._end.set()
    await running.task  # lets `gone` in, which has not run since
    gone.task.cancel()
    await asyncio.wait({gone.task})
    await asyncio.wait_for(patient.begun.wait(), 10)
    await patient.end()


async def test_many_who_leave_at_once_disturb_nobody(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1))
    leaving = [await scene.come(user) for user in ("ada", "bob", "cleo", "dan")]
    patient = await scene.come("eve")
    for visit in leaving:
        visit.task.cancel()
    await asyncio.wait({visit.task for visit in leaving})
    assert all(visit.task.cancelled() for visit in leaving)
    await asyncio.wait_for(patient.begun.wait(), 10)
    await patient.end()


async def test_an_error_within_a_turn_ends_it(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1))
    with pytest.raises(RuntimeError):
        async with scene.turns.turn(MODEL, scene.capacity, Request("ada", 10), scene.waiting):
            raise RuntimeError
    assert (await scene.come("bob")).begun.is_set()


async def test_a_full_queue_refuses_its_user_and_nobody_else(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1), max_queue=2)
    running = await scene.come("ada")
    for _ in range(2):
        await scene.come("ada")
    with pytest.raises(QueueFull, match="2 requests of yours") as refused:
        await (await scene.come("ada")).task
    assert refused.value.retry_after == 1
    bob = await scene.come("bob")
    assert not bob.task.done()
    running.turn.charge(output=1)
    await running.end()
    assert bob.begun.is_set()


async def test_retry_after_is_the_pace_at_which_turns_end(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1), max_queue=1)
    for _ in range(4):
        visit = await scene.come("ada")
        scene.now += 7
        await visit.end()
    await scene.come("ada")
    await scene.come("ada")
    with pytest.raises(QueueFull, match="in 6 s") as refused:
        await (await scene.come("ada")).task
    assert refused.value.retry_after == 6  # four ends, the first 21 seconds ago


async def test_without_a_queue_who_finds_no_slot_is_refused(make_scene: MakeScene) -> None:
    scene = make_scene(Capacity(1), max_queue=0)
    assert (await scene.come("ada")).begun.is_set()
    with pytest.raises(QueueFull):
        await (await scene.come("ada")).task


async def test_a_request_larger_than_the_queue_waits_if_nothing_else_of_its_user_does(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(Capacity(1), max_queue=4)
    running = await scene.come("ada")
    large = await scene.come("ada", sequences=100)
    with pytest.raises(QueueFull):
        await (await scene.come("ada")).task
    await running.end()
    assert large.begun.is_set()
