from __future__ import annotations

import pytest

from samovar_server.loader.devices import Memory, NvidiaGpus
from samovar_server.loader.machine import Machine, automatic_budget


@pytest.mark.parametrize(
    ("device", "memory", "used", "budget"),
    [
        ("cpu", Memory(1000, 950), 0, 800),  # a share of the whole
        ("cpu", Memory(1000, 500), 0, 450),  # no more than others leave
        ("cpu", Memory(1000, 500), 300, 750),  # what models have already is theirs
        ("cuda:0", Memory(1000, 1000), 0, 900),
    ],
)
def test_the_automatic_budget(device: str, memory: Memory, used: int, budget: int) -> None:
    assert automatic_budget(device, memory, used) == budget


def test_a_budget_that_is_set_is_the_budget() -> None:
    machine = Machine(NvidiaGpus(None, None), {"cpu": 123}, host=lambda: Memory(1000, 10))
    assert machine.budgets({}) == {"cpu": 123}
    assert machine.memory() == {"cpu": Memory(1000, 10)}


def test_the_budget_follows_what_is_used() -> None:
    machine = Machine(NvidiaGpus(None, None), {"cpu": 0}, host=lambda: Memory(1000, 100))
    assert machine.budgets({"cpu": 200}) == {"cpu": 290}


def test_gpus_have_budgets_of_their_own() -> None:
    class ThreeGpus(NvidiaGpus):
        def memory(self) -> list[Memory]:
            return [Memory(1000, 1000), Memory(1000, 1000), Memory(1000, 1000)]

    machine = Machine(
        ThreeGpus(None, None), {"cuda:0": 300, "cuda:2": 0, "cuda": 400}, host=lambda: Memory(1000, 1000)
    )
    assert machine.budgets({}) == {"cpu": 800, "cuda:0": 300, "cuda:1": 400, "cuda:2": 900}
