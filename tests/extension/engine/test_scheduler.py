"""Who computes what in a step where memory is scarce. The rest shows in what the engine does: test_core."""

from __future__ import annotations

from samovar_server.engine.pace import Pace
from samovar_server.engine.row_cost import RowCost
from samovar_server.engine.scheduler import Plan, Scheduler
from samovar_server.engine.sequence import Phase, Sequence
from samovar_server.engine.slots import SlotPool
from samovar_server.engine.text import TextStream
from samovar_server.protocol.sampling import SamplingParams
from tests.extension.engine.helpers import Digits


def sequence(prompt: list[int], max_tokens: int) -> Sequence:
    return Sequence(prompt, SamplingParams(), max_tokens, TextStream(Digits(), ()), lambda output: None)


def step(scheduler: Scheduler) -> Plan:
    """A step in which every token is as good as any."""
    plan = scheduler.plan(Pace(), RowCost())
    begun = [chunk.sequence for chunk in plan.prefill if chunk.is_last]
    for advanced in [*plan.decode, *begun]:
        advanced.output.append(0)
        if len(advanced.output) == advanced.max_tokens:
            scheduler.remove(advanced)
    return plan


def test_nobody_is_let_in_while_somebody_pauses_for_want_of_room() -> None:
    scheduler = Scheduler(SlotPool(3), 10, room=100)
    long, short, newcomer = sequence([1] * 80, 20), sequence([2] * 10, 8), sequence([3], 2)
    scheduler.add(long)
    scheduler.add(short)
    step(scheduler)
    while long in step(scheduler).decode:
        assert short.phase is Phase.DECODE
    scheduler.add(newcomer)  # for which there is room, beside a long one that stays where it is
    while newcomer.phase is Phase.WAITING:
        paused = long not in step(scheduler).decode
        assert not (paused and newcomer.phase is not Phase.WAITING)
    while scheduler.running:
        step(scheduler)
    assert len(long.output) == 20


def test_prompts_whose_beginning_is_there_count_as_what_is_left_of_them() -> None:
    scheduler = Scheduler(SlotPool(8), 10)
    common = list(range(320))
    scheduler.add(sequence([*common, 1], 50))
    while not step(scheduler).decode:
        pass
    for number in range(6):
        scheduler.add(sequence([*common, *[1000 + number] * 32], 50))
    plan = step(scheduler)
    assert len(plan.decode) == 1
    assert [chunk.end - chunk.start for chunk in plan.prefill] == [32] * 6  # beside one: more than the pace


def test_prompts_that_begin_alike_wait_for_the_first_unless_they_are_to_be_scored() -> None:
    common = list(range(64))
    for scores, together in ((None, 1), (0, 3)):
        scheduler = Scheduler(SlotPool(8), 10)
        for number in range(3):
            alike = sequence([*common, number], 5)
            alike.prompt_logprobs = scores
            scheduler.add(alike)
        assert len(step(scheduler).prefill) == together
        assert len(step(scheduler).prefill) == 3 - together
