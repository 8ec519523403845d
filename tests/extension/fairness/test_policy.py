"""The virtual token counter against random arrivals: the paper's bound, no idle slot, nobody forgotten."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations

import pytest

from samovar_server.fairness.policy import Capacity, Costs, FairQueue, Request

COSTS = Costs(prompt=1.0, output=2.0)
LONGEST_PROMPT, LONGEST_ANSWER = 60, 40
USERS = ("ada", "bob", "cleo", "dan", "eve")


@dataclass
class Simulation:
    """An engine that makes one token of each running request in a step, under requests that come at random.

    `work` is what each user has had, weighted as his counter is; `since` is the work of all users when a pair
    of them began to have requests waiting, both at the same time and without a pause.
    """

    capacity: Capacity
    seed: int
    weights: dict[str, float] = field(default_factory=dict)
    pace: float = 0.2

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.queue = FairQueue(self.capacity, COSTS)
        self.left: dict[Request, int] = {}
        self.sent: list[Request] = []
        self.done: set[Request] = set()
        self.work: dict[str, float] = defaultdict(float)
        self.since: dict[tuple[str, str], dict[str, float]] = {}
        self.widest = 0.0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.arrive()
            self.step()
        while len(self.done) < len(self.sent):
            self.step()

    def arrive(self) -> None:
        for user in USERS:
            # Some send all the time, others now and then or in bursts.
            for _ in range(self.random.choice((0, 0, 0, 1, 1, 6)) if self.random.random() < self.pace else 0):
                sequences = self.random.choice((1, 1, 1, 1, 3, 40))
                prompt = self.random.randint(1, LONGEST_PROMPT)
                self.send(Request(user, prompt, sequences, self.weights.get(user, 1.0)))

    def send(self, request: Request) -> Request:
        self.queue.add(request)
        self.sent.append(request)
        return request

    def step(self) -> None:
        for request in self.queue.admit():
            self.left[request] = self.random.randint(1, LONGEST_ANSWER)
            self.count(request, COSTS.prompt * request.prompt_tokens)
        self.observe()
        for request in list(self.left):
            self.queue.charge(request, output=1)
            self.count(request, COSTS.output)
            self.left[request] -= 1
            if not self.left[request]:
                del self.left[request]
                self.done.add(request)
                self.queue.leave(request)

    def count(self, request: Request, work: float) -> None:
        self.work[request.user] += work / request.weight

    def observe(self) -> None:
        """How far apart the work of two is who have both had requests waiting all the time."""
        for pair in combinations(USERS, 2):
            if not all(self.queue.waiting(user) for user in pair):
                self.since.pop(pair, None)
                continue
            before = self.since.setdefault(pair, dict(self.work))
            had = [self.work[user] - before.get(user, 0.0) for user in pair]
            self.widest = max(self.widest, abs(had[0] - had[1]))

    def bound(self) -> float:
        """2 U: the longest prompt, and all that those who run together can produce."""
        running = self.capacity.slots + self.capacity.ahead + self.capacity.reserve
        lightest = min([1.0, *self.weights.values()])
        return 2 * (COSTS.prompt * LONGEST_PROMPT + COSTS.output * running * LONGEST_ANSWER) / lightest


CAPACITIES = [Capacity(4), Capacity(4, ahead=1), Capacity(8, reserve=2, ahead=2), Capacity(1), Capacity(3, 5)]


@pytest.mark.parametrize("capacity", CAPACITIES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_under_random_arrivals_work_differs_by_no_more_than_the_bound(capacity: Capacity, seed: int) -> None:
    weights = {"ada": 4.0, "bob": 2.0} if seed % 2 else {}
    simulation = Simulation(capacity, seed, weights)
    simulation.run(steps=200)
    assert len(simulation.sent) > 150
    assert simulation.done == set(simulation.sent)  # none lost, none twice
    assert simulation.widest <= simulation.bound()
    assert simulation.queue.held() == simulation.queue.waiting() == 0


def test_the_bound_would_show_an_unfair_order() -> None:
    """First come, first served breaks it: the test above can fail."""
    simulation = Simulation(Capacity(4), seed=1)
    for _ in range(2000):
        simulation.send(Request("ada", 60))
    simulation.send(Request("bob", 1))
    simulation.queue._next_user = lambda: next(iter(simulation.queue._waiting))  # type: ignore[method-assign]
    for _ in range(2000):
        simulation.step()
    assert simulation.widest > simulation.bound()


@pytest.mark.parametrize("seed", range(4))
def test_no_slot_is_idle_while_somebody_waits(seed: int) -> None:
    simulation = Simulation(Capacity(6, reserve=2), seed)
    for _ in range(300):
        simulation.arrive()
        simulation.step()
        queue = simulation.queue
        queue.admit()
        assert queue.held() >= 6 or not queue.waiting()


@pytest.mark.parametrize("seed", range(3))
def test_nobody_starves_beside_a_flood(seed: int) -> None:
    """Whatever the others send: a user's one request is let in before they have had much more than he."""
    simulation = Simulation(Capacity(4), seed, pace=1.0)
    for _ in range(200):
        simulation.arrive()
        simulation.step()
    mine = simulation.send(Request("zoe", 5))
    for _ in range(4 * LONGEST_ANSWER):  # every slot has been freed, and many times
        simulation.arrive()
        simulation.step()
    assert mine in simulation.done


def fill(queue: FairQueue, user: str, count: int) -> list[Request]:
    for _ in range(count):
        queue.add(Request(user, 10))
    return queue.admit()


def test_one_user_alone_gets_every_slot_of_the_settings() -> None:
    queue = FairQueue(Capacity(16, reserve=4), COSTS)
    assert len(fill(queue, "ada", 32)) == 16


def test_a_newcomer_does_not_wait_behind_one_who_holds_all_slots() -> None:
    queue = FairQueue(Capacity(16, reserve=2), COSTS)
    fill(queue, "ada", 64)
    (first,) = fill(queue, "bob", 1)
    assert first.express
    assert fill(queue, "bob", 1) == []  # he has one running: now it goes by work alone
    (other,) = fill(queue, "cleo", 1)
    assert fill(queue, "dan", 1) == []  # the reserve is taken
    queue.leave(other)
    assert [request.user for request in queue.admit()] == ["dan"]


def test_the_reserve_is_not_taken_while_a_slot_is_free() -> None:
    queue = FairQueue(Capacity(2, reserve=1), COSTS)
    assert [request.express for request in fill(queue, "ada", 1) + fill(queue, "bob", 1)] == [False, False]


def test_the_reserve_does_not_let_anybody_pass_whose_turn_it_is_not() -> None:
    queue = FairQueue(Capacity(1, reserve=1), COSTS)
    (long,) = fill(queue, "bob", 1)
    queue.charge(long, output=1000)
    queue.leave(long)
    fill(queue, "ada", 1)  # comes at the level of the last: nobody saves up turns
    assert queue.counter("ada") >= queue.counter("bob") - COSTS.prompt * 10
    fill(queue, "ada", 5)
    assert [request.user for request in fill(queue, "bob", 1)] == ["bob"]


def test_work_is_shared_by_weight() -> None:
    queue = FairQueue(Capacity(1), COSTS)
    served: list[str] = []
    for user, weight in (("staff", 3.0), ("student", 1.0)):
        for _ in range(100):
            queue.add(Request(user, 10, weight=weight))
    for _ in range(80):
        (request,) = queue.admit()
        served.append(request.user)
        queue.leave(request)
    assert served.count("staff") == pytest.approx(60, abs=1)


def test_a_user_with_a_pause_has_saved_up_nothing() -> None:
    queue = FairQueue(Capacity(1), COSTS)
    (request,) = fill(queue, "ada", 1)
    queue.charge(request, output=5000)
    fill(queue, "ada", 20)
    fill(queue, "bob", 20)  # has had nothing at all, and comes only now
    queue.leave(request)
    served = []
    for _ in range(10):
        (request,) = queue.admit()
        served.append(request.user)
        queue.leave(request)
    assert served.count("ada") == 5


def test_a_request_of_many_sequences_takes_many_slots() -> None:
    queue = FairQueue(Capacity(8), COSTS)
    queue.add(Request("ada", 10, sequences=6))
    assert len(queue.admit()) == 1
    assert len(fill(queue, "ada", 5)) == 2
    assert (queue.held(), queue.waiting()) == (8, 3)


def test_one_larger_than_all_slots_is_served_too_and_others_after_it() -> None:
    queue = FairQueue(Capacity(4), COSTS)
    queue.add(Request("ada", 10, sequences=64))
    (large,) = queue.admit()
    assert fill(queue, "bob", 1) == []
    queue.leave(large)
    assert len(queue.admit()) == 1


def test_given_up_requests_leave_no_trace() -> None:
    queue = FairQueue(Capacity(1), COSTS)
    fill(queue, "ada", 1)
    waiting = Request("bob", 10)
    queue.add(waiting)
    queue.leave(waiting)
    assert (queue.waiting(), queue.held(), queue.admit()) == (0, 1, [])


def test_an_estimate_that_was_too_high_is_put_right() -> None:
    queue = FairQueue(Capacity(2), COSTS)
    (request,) = fill(queue, "ada", 1)
    queue.charge(request, prompt=-4, output=3)
    assert queue.counter("ada") == 6 * COSTS.prompt + 3 * COSTS.output
