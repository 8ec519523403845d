"""What samovar is to reach, as ratios within one run."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.results import Serving

FP32, INT4 = "samovar fp32", "samovar int4"
CLIENTS = {1: "short, 1 client", 4: "short, 4 clients", 16: "short, 16 clients"}
AGAINST_LLAMACPP = {1: 0.6, 4: 1.5, 16: 2.0}
AGAINST_VLLM = {1: 1.0, 4: 1.0, 16: 1.0}
AGAINST_TRANSFORMERS_AT_16 = 8.0
FOUR_STREAMS = 2.5
STRETCH = 3.0
THROUGHPUT_LOSS = 0.05
TTFT_COST = 0.005
CELL_COST = 0.06
"""Seconds that a notebook's cell may add to the server's time to first token."""


def verdicts(serving: Serving) -> Iterator[list[str]]:
    """For each target that could be measured: what it says, what was measured, whether it is reached."""
    for clients, scenario in CLIENTS.items():
        yield from faster(serving, FP32, "vLLM", scenario, AGAINST_VLLM[clients])
    yield from faster(serving, FP32, "transformers serve", CLIENTS[16], AGAINST_TRANSFORMERS_AT_16)
    for clients, scenario in CLIENTS.items():
        yield from faster(serving, INT4, "llama.cpp Q4_1", scenario, AGAINST_LLAMACPP[clients])
    for server in (FP32, INT4):
        one, four = (serving.row(server, CLIENTS[clients]) for clients in (1, 4))
        if one and four:
            ratio = four.tokens_per_second / one.tokens_per_second
            target = f"{server}: 4 streams at least {FOUR_STREAMS} times one"
            yield verdict(target, f"{ratio:.2f} times", ratio >= FOUR_STREAMS)
    for server, long in serving.long_arrival.items():
        yield verdict(
            f"{server}: a long prompt stretches others' ITL p95 at most {STRETCH:g} times",
            f"{long.stretch:.2f}",
            long.stretch <= STRETCH,
        )
    for server, both in serving.gateway.items():
        for load, speed in both.speeds.items():
            yield verdict(
                f"{server}: the gateway costs less than {THROUGHPUT_LOSS:.0%} of throughput, {load}",
                f"{speed.loss.median:.1%}",
                speed.loss.median < THROUGHPUT_LOSS,
            )
        yield verdict(
            f"{server}: the gateway costs less than {1000 * TTFT_COST:g} ms of TTFT",
            f"{1000 * both.ttft.more.median:.1f} ms",
            both.ttft.more.median < TTFT_COST,
        )


def faster(serving: Serving, ours: str, theirs: str, scenario: str, least: float) -> Iterator[list[str]]:
    mine, peer = serving.row(ours, scenario), serving.row(theirs, scenario)
    if mine and peer:
        ratio = mine.tokens_per_second / peer.tokens_per_second
        yield verdict(
            f"{scenario}: {ours} at least {least:g} times {theirs}", f"{ratio:.2f} times", ratio >= least
        )


def verdict(target: str, measured: str, reached: bool) -> list[str]:
    return [target, measured, "reached" if reached else "**missed**"]
