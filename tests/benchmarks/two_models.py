"""Two models that answer at the same time on the same cores: `python -m tests.benchmarks.two_models [TURNS]`.

Tokens per second of each, alone and beside the other. TURNS says how long threads wait for each other (see
`engine.threads`) instead of what a worker says by itself; OpenMP's own are 300000.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

from samovar_server.engine.threads import TURNS
from tests.benchmarks.client import Endpoint, http_client, run
from tests.benchmarks.scenarios import text_of_length
from tests.benchmarks.servers import samovar
from tests.benchmarks.serving import pull

CLIENTS, TOKENS = 4, 64
LIMIT = 30.0
"""Seconds after which a load is cut off; the tokens until then count."""


def main() -> None:
    if len(sys.argv) > 1:
        os.environ[TURNS] = sys.argv[1]
    model = pull("demo")
    contenders = [samovar(model, quantization) for quantization in ("none", "int4")]
    with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder, ExitStack() as stack:
        endpoints = []
        for number, contender in enumerate(contenders):
            place = Path(folder, str(number))
            place.mkdir()
            endpoints.append(stack.enter_context(contender.start(place)).endpoint)
        alone, together = asyncio.run(measure(endpoints))
    for contender, by_itself, beside in zip(contenders, alone, together, strict=True):
        print(f"{contender.name}: {by_itself:.1f} tok/s alone, {beside:.1f} beside the other")


async def measure(endpoints: Sequence[Endpoint]) -> tuple[list[float], list[float]]:
    """Tokens per second, each alone and then all at once."""

    async def speed(client: httpx.AsyncClient, endpoint: Endpoint, salt: str) -> float:
        prompts = [text_of_length(f"{salt} {number}", 40) for number in range(CLIENTS)]
        return (await run(client, endpoint, prompts, TOKENS, LIMIT)).tokens_per_second

    async with http_client() as client:
        for endpoint in endpoints:
            await speed(client, endpoint, "warm up")
        alone = [await speed(client, endpoint, "alone") for endpoint in endpoints]
        return alone, await asyncio.gather(*[speed(client, endpoint, "together") for endpoint in endpoints])


if __name__ == "__main__":
    main()
