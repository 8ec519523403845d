"""From streams to numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from tests.benchmarks.client import Run
from tests.benchmarks.scenarios import Scenario


@dataclass(frozen=True)
class Row:
    """One server under one load; times in seconds.

    Of streams that the time limit cut off, the tokens until then count, and one that had not begun
    counts with the limit as its time to first token: then those percentiles are lower bounds.
    """

    server: str
    scenario: str
    clients: int
    finished: int
    output_tokens: int
    seconds: float
    tokens_per_second: float
    ttft_p50: float
    ttft_p95: float
    gap_p50: float
    gap_p95: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summarise(server: str, scenario: Scenario, run: Run) -> Row:
    """The numbers of one load."""
    firsts = [run.seconds if stream.first_token is None else stream.first_token for stream in run.streams]
    gaps = [gap for stream in run.streams for gap in stream.gaps]
    return Row(
        server=server,
        scenario=scenario.name,
        clients=scenario.clients,
        finished=sum(stream.finished for stream in run.streams),
        output_tokens=run.tokens,
        seconds=run.seconds,
        tokens_per_second=run.tokens_per_second,
        ttft_p50=percentile(firsts, 0.5),
        ttft_p95=percentile(firsts, 0.95),
        gap_p50=percentile(gaps, 0.5),
        gap_p95=percentile(gaps, 0.95),
    )


def middle(rows: Sequence[Row]) -> Row:
    """The medians of a server's rounds under one load; of `finished`, the fewest."""

    def of(name: str) -> float:
        return median(getattr(row, name) for row in rows)

    return replace(
        rows[0],
        finished=min(row.finished for row in rows),
        output_tokens=round(of("output_tokens")),
        seconds=of("seconds"),
        tokens_per_second=of("tokens_per_second"),
        ttft_p50=of("ttft_p50"),
        ttft_p95=of("ttft_p95"),
        gap_p50=of("gap_p50"),
        gap_p95=of("gap_p95"),
    )
