"""How long a user with one question waits beside another who keeps 32 streams busy.

    python -m tests.benchmarks.fairness

asks the same questions of the Hub's service (its Hub is a fake, its model the demo in fp32): alone; beside
another user's streams, by the policy of fair turns; and beside the same streams as one user of them, whose
requests are served first come, first served. Writes what it finds, with a plot, to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.benchmarks.client import Endpoint, Stream, complete, http_client
from tests.benchmarks.report import write_report
from tests.benchmarks.results import FAIRNESS, Fairness, Latency, machine, versions, write
from tests.benchmarks.servers import LOAD_SECONDS
from tests.benchmarks.serving import pull
from tests.fakes.fake_jupyterhub import FakeHub, user

STREAMS = 32
QUESTION, ANSWER_TOKENS = "The capital of France is", 8
STORY = "Once upon a time there was"
STORY_TOKENS = (64, 160)
TOKENS = {"heavy": user("heavy"), "light": user("light")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=30, help="alone and with the policy")
    parser.add_argument(
        "--patience", type=int, default=6, help="questions without the policy, which wait long"
    )
    given = parser.parse_args()
    write(FAIRNESS, asyncio.run(measure(pull("demo"), given.questions, given.patience)))
    write_report()


async def measure(model: Path, questions: int, patience: int) -> Fairness:
    """The three ways in turn, on one server."""
    found = Fairness(machine(), versions(), STREAMS, ANSWER_TOKENS)
    async with service(model) as url, http_client() as client:
        await ask(client, url, "light", 6)  # the first loads the model, and the next make buffers grow
        found.latencies["alone"] = await ask(client, url, "light", questions)
        async with streams(client, url) as heavy:
            found.latencies["beside 32 streams, fair turns"] = await ask(client, url, "light", questions)
            found.latencies["beside 32 streams, first come first served"] = await ask(
                client, url, "heavy", patience
            )
        gaps = sorted(gap for stream in heavy for gap in stream.gaps)
        found.step_seconds = gaps[len(gaps) // 2]
    return found


async def ask(client: httpx.AsyncClient, url: str, token: str, count: int) -> Latency:
    """One question after the other."""
    latency = Latency()
    for _ in range(count):
        began = time.perf_counter()
        stream = await complete(client, endpoint(url, token), QUESTION, ANSWER_TOKENS)
        assert stream.first_token is not None
        latency.first_token.append(stream.first_token)
        latency.answer.append(time.perf_counter() - began)
        print(f"{token}: {latency.first_token[-1]:.3f} s, {latency.answer[-1]:.3f} s", flush=True)
        await asyncio.sleep(0.2)  # a person reads; the streams go on
    return latency


@asynccontextmanager
async def streams(client: httpx.AsyncClient, url: str) -> AsyncIterator[list[Stream]]:
    """Keep STREAMS long answers busy: whenever one ends, the same user asks for the next."""
    done: list[Stream] = []

    async def keep_busy(number: int) -> None:
        lengths = random.Random(number)
        while True:
            story = f"{STORY} number {number}"
            length = lengths.randint(*STORY_TOKENS)
            done.append(await complete(client, endpoint(url, "heavy"), story, length))

    tasks = [asyncio.create_task(keep_busy(number)) for number in range(STREAMS)]
    try:
        await asyncio.sleep(10)  # all slots are taken, and a queue stands before them
        yield done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def endpoint(url: str, token: str) -> Endpoint:
    return Endpoint(url, "demo", {"Authorization": f"Bearer {token}"}, {"ignore_eos": True})


@asynccontextmanager
async def service(model: Path) -> AsyncIterator[str]:
    """The service of a Hub that knows two users; the URL of its /v1."""
    hub = FakeHub(dict(TOKENS))
    server = hub.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder:
        told = {
            "JUPYTERHUB_API_TOKEN": "services-token",
            "JUPYTERHUB_SERVICE_NAME": "samovar",
            "JUPYTERHUB_SERVICE_URL": url,
            "JUPYTERHUB_API_URL": hub.url,
            "JUPYTER_DATA_DIR": folder,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "samovar_server.hub", f"--Workbench.model_folders={model.parent}"),
            env={**os.environ, **told},
            stdin=asyncio.subprocess.DEVNULL,
        )
        try:
            await until_served(f"{url}/services/samovar/v1/health")
            yield f"{url}/services/samovar/v1"
        finally:
            process.terminate()
            await process.wait()
            server.stop()


async def until_served(health: str) -> None:
    async with asyncio.timeout(LOAD_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                (await client.get(health)).raise_for_status()
                return
            except httpx.TransportError:
                await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()
