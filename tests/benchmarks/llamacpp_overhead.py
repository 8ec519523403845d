"""What samovar's gateway costs llama.cpp: its own server and samovar's /v1 before the same engine, by turns.

    python -m tests.benchmarks.llamacpp_overhead

Both servers run, on the same file with as many threads and slots, and are asked one after the other with
prompts that neither has seen; who begins changes from round to round. The machine should have nothing else
to do.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.benchmarks.client import Endpoint, http_client, run
from tests.benchmarks.scenarios import Scenario
from tests.benchmarks.servers import CONTEXT, LOAD_SECONDS, SLOTS, llamacpp
from tests.benchmarks.serving import WARM_UP, pull
from tests.notebooks.jupyter import TOKEN, jupyter

CLIENTS = (1, 4, 16)
LIMIT_SECONDS = 60.0


@contextmanager
def through_samovar(gguf: Path, folder: Path) -> Iterator[Endpoint]:
    """samovar's /v1 with the file loaded into its llama.cpp worker."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    load = {"model": f"{gguf.parent.name}:{gguf.name}", "backend": "llamacpp", "n_ctx": CONTEXT}
    options = (
        f"--Workbench.model_folders={gguf.parents[1]}",
        f"--Workbench.slots={SLOTS}",
        "--Workbench.spare_worker=False",  # its import would run beside the measurement
    )
    with jupyter(folder, *options) as server:
        client = httpx.Client(headers=headers, timeout=LOAD_SECONDS, trust_env=False)
        with client:
            client.post(f"{server.url}v1/models/load", json=load).raise_for_status()
        yield Endpoint(f"{server.url}v1", load["model"], headers, {"ignore_eos": True})


async def compare(direct: Endpoint, through: Endpoint, rounds: int, max_tokens: int) -> None:
    async with http_client() as client:
        for endpoint in (direct, through):
            await run(client, endpoint, WARM_UP.prompts("both"), WARM_UP.max_tokens, LIMIT_SECONDS)
        for clients in CLIENTS:
            load = Scenario(f"{clients} clients", clients, 40, max_tokens)
            speeds: dict[str, list[float]] = {"direct": [], "through": []}
            for number in range(rounds):
                turns = [("direct", direct), ("through", through)]
                for name, endpoint in turns if number % 2 else reversed(turns):
                    prompts = load.prompts(f"{name} {number}")
                    measured = await run(client, endpoint, prompts, max_tokens, LIMIT_SECONDS)
                    assert measured.tokens == clients * max_tokens, "a stream was cut off"
                    speeds[name].append(measured.tokens_per_second)
            own, samovars = (statistics.median(speeds[name]) for name in ("direct", "through"))
            ratios = [b / a for a, b in zip(speeds["direct"], speeds["through"], strict=True)]
            print(
                f"{clients:2} clients: llama.cpp {own:6.1f} tok/s, through samovar {samovars:6.1f} tok/s, "
                f"ratio {samovars / own:.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    options = parser.parse_args()
    (gguf,) = pull("demo:Q4_1").glob("*.gguf")
    with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder:
        server = llamacpp(gguf, Path(sys.executable))
        with (
            server.start(Path(folder)) as direct,
            through_samovar(gguf, Path(folder)) as through,
        ):
            asyncio.run(compare(direct.endpoint, through, options.rounds, options.tokens))


if __name__ == "__main__":
    main()
