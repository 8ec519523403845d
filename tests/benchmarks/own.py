"""What only samovar is asked: what a long prompt does to running streams, and what the gateway costs."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from tests.benchmarks.client import Endpoint, Stream, complete, run
from tests.benchmarks.measures import percentile
from tests.benchmarks.scenarios import Scenario, text_of_length

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
class Gateway:
    """The same load through Jupyter's /v1 and at the worker itself: medians of alternating rounds."""

    through_tokens_per_second: float
    direct_tokens_per_second: float
    through_ttft: float
    direct_ttft: float

    @property
    def throughput_loss(self) -> float:
        """The share of throughput that the gateway costs."""
        return 1 - self.through_tokens_per_second / self.direct_tokens_per_second

    @property
    def ttft_cost(self) -> float:
        """Seconds that the gateway adds to the time to first token."""
        return self.through_ttft - self.direct_ttft


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
    client: httpx.AsyncClient, through: Endpoint, direct: Endpoint, *, rounds: int, max_tokens: int
) -> Gateway:
    """Load both in turn, so that what else the machine does meets them alike."""
    speeds: dict[str, list[float]] = {through.url: [], direct.url: []}
    firsts: dict[str, list[float]] = {through.url: [], direct.url: []}
    for number in range(rounds):
        # Every other round the other way round, so that neither is always the first.
        for endpoint in (through, direct) if number % 2 else (direct, through):
            load = Scenario(f"gateway {number} {endpoint.url}", 4, 40, max_tokens)
            measured = await run(client, endpoint, load.prompts("gateway"), max_tokens, LIMIT)
            speeds[endpoint.url].append(measured.tokens / measured.seconds)
    for number in range(4 * rounds):
        for endpoint in (through, direct) if number % 2 else (direct, through):
            prompt = text_of_length(f"first {number} {endpoint.url}", 12)
            first = (await complete(client, endpoint, prompt, 1)).first_token
            assert first is not None, "a prompt was answered without a token"
            firsts[endpoint.url].append(first)
    return Gateway(
        through_tokens_per_second=statistics.median(speeds[through.url]),
        direct_tokens_per_second=statistics.median(speeds[direct.url]),
        through_ttft=statistics.median(firsts[through.url]),
        direct_ttft=statistics.median(firsts[direct.url]),
    )
