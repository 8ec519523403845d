"""What only samovar is asked: what a long prompt does to running streams, and what the gateway costs."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import httpx

from tests.benchmarks.client import Endpoint, Stream, complete, run
from tests.benchmarks.measures import percentile
from tests.benchmarks.scenarios import Scenario, text_of_length
from tests.benchmarks.servers import SLOTS

LIMIT = 120.0
"""Seconds that any one of these measurements may take."""


@dataclass(frozen=True)
class LongArrival:
    """Gaps between the tokens of streams that run, before a long prompt comes and while it is prefilled.

    Seconds. `prompt_tokens` is the long prompt's length as the server counts it, `prefill` its time to
    first token.
    """

    prompt_tokens: int | None
    prefill: float
    before_p50: float
    before_p95: float
    during_p50: float
    during_p95: float

    @property
    def stretch(self) -> float:
        """How many times longer the gaps' p95 is while the long prompt comes in."""
        return self.during_p95 / self.before_p95


@dataclass(frozen=True)
class Spread:
    """The median of what rounds have shown, and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of one value at least."""
        return cls(statistics.median(values), percentile(values, 0.25), percentile(values, 0.75))


@dataclass(frozen=True)
class Paired:
    """One measure, at the worker itself and through Jupyter's /v1: the two of a round side by side."""

    direct: Sequence[float]
    through: Sequence[float]

    @property
    def loss(self) -> Spread:
        """The share of it that the gateway costs, round by round."""
        return Spread.of([1 - through / direct for direct, through in self._rounds()])

    @property
    def more(self) -> Spread:
        """What the gateway adds to it, round by round."""
        return Spread.of([through - direct for direct, through in self._rounds()])

    def _rounds(self) -> Iterator[tuple[float, float]]:
        return zip(self.direct, self.through, strict=True)


@dataclass(frozen=True)
class Gateway:
    """What the gateway costs: tokens per second by load, and the seconds to the first token of one client."""

    speeds: Mapping[str, Paired]
    ttft: Paired


async def long_arrival(
    client: httpx.AsyncClient, endpoint: Endpoint, *, long_tokens: int, streams: int = 3, settle: int = 40
) -> LongArrival:
    """Send a prompt of about `long_tokens` tokens when each of `streams` has got `settle` tokens."""
    running = [Stream(sent=0.0) for _ in range(streams)]
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                complete(client, endpoint, text_of_length(f"runs {number}", 40), 4000, into=stream)
            )
            for number, stream in enumerate(running)
        ]
        # A stream is a list of times and tells nobody when it grows; only the client's own loop waits here.
        while min(len(stream.arrivals) for stream in running) < settle:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        long = await complete(client, endpoint, text_of_length("long", long_tokens), 1)
        for task in tasks:
            task.cancel()
    assert long.first_token is not None, "the long prompt was answered without a token"
    came = long.sent + long.first_token
    # The first gaps are those in which the streams themselves come in.
    before = gaps_between(running, max(stream.arrivals[4] for stream in running), long.sent)
    during = gaps_between(running, long.sent, came)
    return LongArrival(
        prompt_tokens=long.prompt_tokens,
        prefill=long.first_token,
        before_p50=percentile(before, 0.5),
        before_p95=percentile(before, 0.95),
        during_p50=percentile(during, 0.5),
        during_p95=percentile(during, 0.95),
    )


def gaps_between(streams: Sequence[Stream], begin: float, end: float) -> list[float]:
    """The gaps that ended in that time."""
    return [
        after - before
        for stream in streams
        for before, after in zip(stream.arrivals, stream.arrivals[1:], strict=False)
        if begin < after <= end
    ]


async def gateway(
    client: httpx.AsyncClient, through: Endpoint, direct: Endpoint, *, loads: Sequence[Scenario], rounds: int
) -> Gateway:
    """Load both in turn, in many short rounds; `rounds` should be even."""

    async def first_token(side: str, endpoint: Endpoint, number: int) -> float:
        prompt = f"{side} {text_of_length(f'first {number}', 12)}"
        first = (await complete(client, endpoint, prompt, 1)).first_token
        assert first is not None, "a prompt was answered without a token"
        return first

    speeds = {}
    for load in loads:

        async def speed(side: str, endpoint: Endpoint, number: int, load: Scenario = load) -> float:
            # Of the same prompts both sides make the same tokens, with the same luck in drafts.
            await forget(client, direct, f"{side} {number}")
            prompts = load.prompts(f"gateway {number}")
            measured = await run(client, endpoint, prompts, load.max_tokens, LIMIT)
            return measured.tokens_per_second

        speeds[load.name] = await by_turns(direct, through, rounds, speed)
    return Gateway(speeds, await by_turns(direct, through, 3 * rounds, first_token))


async def forget(client: httpx.AsyncClient, endpoint: Endpoint, salt: str) -> None:
    """Give every slot of the engine another prompt, so that nobody finds an earlier one in the cache."""
    prompts = [text_of_length(f"forget {salt} {slot}", 8) for slot in range(SLOTS)]
    await run(client, endpoint, prompts, 1, LIMIT)


async def by_turns(
    direct: Endpoint,
    through: Endpoint,
    rounds: int,
    measure: Callable[[str, Endpoint, int], Awaitable[float]],
) -> Paired:
    """`measure` both in each round. Who is first changes, so that what drifts meanwhile meets both alike."""
    found: dict[str, list[float]] = {"direct": [], "through": []}
    for number in range(rounds):
        sides = [("direct", direct), ("through", through)]
        for side, endpoint in sides if number % 2 else reversed(sides):
            found[side].append(await measure(side, endpoint, number))
    return Paired(**found)
