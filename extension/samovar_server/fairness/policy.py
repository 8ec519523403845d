"""Who is next: the virtual token counter, for requests that wait for one model's slots.

Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024 (https://arxiv.org/abs/2401.00588),
algorithm 2: each user has a counter of the work he has had, and the waiting user with the smallest one is
next. A prompt is charged when its request is let in, answers token by token as they are produced; a user who
comes back after a pause is lifted to the others' level, so that he cannot save up turns.

The bound (their theorem 4.4): while two users both have requests waiting, the work that they get, divided by
their weights, differs by at most 2 U, whatever the two send. U is the most that one user's counter can rise
above that of another who waits: what he is charged from the moment when he was next, which is
`Costs.prompt` x the longest prompt + `Costs.output` x all that the requests that run can still produce.

What the paper leaves open is how long one waits for a slot when others hold them all. `Capacity.reserve`
slots are kept for users with nothing running: one of them who is next waits for nothing but the step that
runs, as long as fewer than so many newcomers have a request at the same time. A single user gets all the
other slots, which are those of the settings: the reserve comes on top. It never changes the order, only
whether the user whose turn it is has to wait; so the bound holds with it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """What a token counts: w_p and w_q of the paper, which has 1 and 2, as OpenAI's prices had."""

    prompt: float = 1.0
    output: float = 2.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """Sequences that a model takes.

    `slots` run at once, `reserve` more for users with nothing running. `ahead` are let in early, so that
    the engine has the next one at hand the moment a slot is free.
    """

    slots: int
    reserve: int = 0
    ahead: int = 0


@dataclass(eq=False, slots=True)
class Request:
    """One request of `user`, whose charges are divided by `weight`. `prompt_tokens` may be an estimate.

    `express` and `places` say, once it is let in, whether it runs in the reserve and how many it takes.
    """

    user: str
    prompt_tokens: int
    sequences: int = 1
    weight: float = 1.0
    express: bool = False
    places: int = 0


class FairQueue:
    """The requests of one model: those that wait, by user and in their order, and those let in."""

    def __init__(self, capacity: Capacity, costs: Costs) -> None:
        self.capacity = capacity
        self._costs = costs
        self._counters: dict[str, float] = {}
        self._waiting: dict[str, deque[Request]] = {}  # users with requests that wait, and only they
        self._running: set[Request] = set()
        self._running_of: Counter[str] = Counter()
        self._taken = self._taken_of_reserve = 0
        self._last: str | None = None  # whose request left the queue last

    def add(self, request: Request) -> None:
        """Queue a request."""
        if request.user not in self._waiting:
            self._lift(request.user)
            self._waiting[request.user] = deque()
        self._waiting[request.user].append(request)

    def admit(self) -> list[Request]:
        """Let in all whose turn it is and who find room; the caller starts them."""
        admitted: list[Request] = []
        while self._waiting:
            request = self._waiting[self._next_user()][0]
            if not self._has_room(request):
                break
            self._forget(request)
            self._last = request.user
            self._running.add(request)
            self._running_of[request.user] += 1
            self._take(request)
            self.charge(request, prompt=request.prompt_tokens)
            admitted.append(request)
        return admitted

    def leave(self, request: Request) -> None:
        """The request is done, or given up, wherever it stands."""
        if request not in self._running:
            self._forget(request)
            return
        self._running.remove(request)
        self._running_of -= Counter({request.user: 1})
        if request.express:
            self._taken_of_reserve -= request.places
        else:
            self._taken -= request.places

    def charge(self, request: Request, *, prompt: int = 0, output: int = 0) -> None:
        """Count work: tokens, negative ones where an estimate was too high."""
        work = self._costs.prompt * prompt + self._costs.output * output
        self._counters[request.user] = self._counters.get(request.user, 0.0) + work / request.weight

    def waiting(self, user: str | None = None) -> int:
        """Sequences that wait here, of `user` or of all."""
        if user is not None:
            return sum(request.sequences for request in self._waiting.get(user, ()))
        return sum(self.waiting(user) for user in self._waiting)

    def held(self) -> int:
        """Sequences that were let in and are not done."""
        return self._taken + self._taken_of_reserve

    def counter(self, user: str) -> float:
        """The work that `user` is counted with."""
        return self._counters.get(user, 0.0)

    def _lift(self, user: str) -> None:
        """Nobody saves up turns while he asks for nothing."""
        if self._waiting:
            level = min(self.counter(other) for other in self._waiting)
        else:
            level = self.counter(self._last) if self._last is not None else 0.0
        self._counters[user] = max(self.counter(user), level)

    def _next_user(self) -> str:
        """Of users with equal counters, one with nothing running goes first, then who has waited longest."""
        return min(self._waiting, key=lambda user: (self.counter(user), self._running_of[user] > 0))

    def _has_room(self, request: Request) -> bool:
        """Whether the request may start now; says in it where."""
        capacity, is_new = self.capacity, not self._running_of[request.user]
        request.express = (
            self._taken >= capacity.slots
            and is_new
            and self._taken_of_reserve + request.sequences <= capacity.reserve
        )
        return request.express or self._taken < capacity.slots + capacity.ahead

    def _take(self, request: Request) -> None:
        # A request of more sequences than there are slots runs in all of them, one after the other.
        request.places = min(request.sequences, self.capacity.slots)
        if request.express:
            self._taken_of_reserve += request.places
        else:
            self._taken += request.places

    def _forget(self, request: Request) -> None:
        queue = self._waiting[request.user]
        queue.remove(request)
        if not queue:
            del self._waiting[request.user]
