from __future__ import annotations

import asyncio

from samovar_server.events import Event, EventBus


def test_a_listener_gets_what_came_after_the_event_he_knows() -> None:
    bus = EventBus(first_id=7)
    assert bus.after(bus.newest) == []
    for number in range(3):
        bus.publish("queue", {"running": number})
    assert [event.id for event in bus.after(6)] == [7, 8, 9]
    assert bus.after(8) == [Event(9, "queue", {"running": 2})]
    assert bus.after(9) == []


def test_who_is_too_slow_is_told_what_is_still_held_and_the_history_is_bounded() -> None:
    bus = EventBus(held=2)
    for number in range(5):
        bus.publish("queue", {"running": number})
    missed, *rest = bus.after(1)
    assert (missed.kind, missed.data) == ("missed", {"first_held": 4})
    assert [event.id for event in rest] == [4, 5]
    assert [event.id for event in bus.after(missed.id)] == [4, 5]  # told once, not again
    assert [event.id for event in bus.after(3)] == [4, 5]  # nothing was missed


def test_an_id_of_another_server_is_no_event_of_this_one() -> None:
    bus = EventBus(first_id=1000)
    for last in (17, 2000):
        (missed,) = bus.after(last)
        assert (missed.kind, missed.data) == ("missed", {"first_held": 1000})
        assert bus.after(missed.id) == []


async def test_waiting_ends_with_an_event_with_the_time_or_with_the_end() -> None:
    bus = EventBus()
    waiting = [asyncio.create_task(bus.wait(bus.newest, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    bus.publish("queue", {})
    assert await asyncio.gather(*waiting) == [True, True]
    assert await bus.wait(0, 60)  # there is something already
    assert not await bus.wait(bus.newest, 0.001)
    last = asyncio.create_task(bus.wait(bus.newest, 60))
    await asyncio.sleep(0)
    bus.close()
    assert await last
    assert bus.closed
