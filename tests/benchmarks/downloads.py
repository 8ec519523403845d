"""What a download keeps after kill -9, how soon a cancel ends it, and how much memory it takes.

`python -m tests.benchmarks.downloads kills|cancel|memory`, from the root of the repository; the figures of
docs/downloads.md are what this prints. The Hub is a fake on a loopback port (tests/fakes/fake_hub.py).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from samovar_server.downloader.desk import launcher
from samovar_server.downloader.job import Wanted
from samovar_server.downloader.jobs import Downloads
from samovar_server.downloader.store import JobStore
from tests.fakes.fake_hub import FakeHub, Zeros, serving
from tests.fakes.killed_downloads import Victim, trial

GB = 1_000_000_000


def kills(count: int) -> None:
    """Half of the seeds kill the downloader, half the server above it."""
    worst, killed = 0, 0
    for seed in range(count):
        victim: Victim = "server" if seed % 2 else "fetcher"
        with tempfile.TemporaryDirectory() as folder:
            outcome = trial(seed, victim, Path(folder))
        killed += outcome.was_killed
        worst = max(worst, outcome.refetched)
    print(f"{count} trials, {killed} killed; every file identical; at most {worst:,} bytes of a file twice")


def cancel(count: int) -> None:
    """From the call to the last piece that the Hub could send, and to the end of the process."""
    asyncio.run(_cancel(count))


async def _cancel(count: int) -> None:
    last_bytes: list[float] = []
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as place, serving(FakeHub()) as hub:
        folder = Path(place)
        hub.files = {"config.json": b"{}", "model.safetensors": Zeros(20 * GB, "0" * 64)}
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
        sent = [0.0]
        flows = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_piece(name: str, position: int) -> None:
            sent[0] = time.monotonic()
            loop.call_soon_threadsafe(flows.set)

        hub.on_piece = on_piece
        log = logging.getLogger("downloads")
        jobs = Downloads(
            launcher(folder, log), lambda: JobStore(folder), limit=1, tell=lambda *told: None, log=log
        )
        jobs.start()
        for _ in range(count):
            flows.clear()
            job = jobs.request(Wanted("org/tiny"), "org/tiny")
            await flows.wait()
            began = time.monotonic()
            jobs.cancel(job.job_id)
            await jobs.settled()
            ends.append(time.monotonic() - began)
            last_bytes.append(max(sent[0] - began, 0.0))
        await jobs.stop()
    print(f"{count} cancels: the last byte after at most {max(last_bytes):.3f} s,", end=" ")
    print(f"the process gone after at most {max(ends):.3f} s")


def memory(size: int) -> None:
    """The most that the downloader had in memory while it fetched one file of `size` bytes."""
    digest = hashlib.sha256()
    block = bytes(1 << 24)
    for start in range(0, size, len(block)):
        digest.update(block[: min(len(block), size - start)])
    with tempfile.TemporaryDirectory() as place, serving(FakeHub()) as hub:
        hub.files = {"config.json": b"{}", "model.safetensors": Zeros(size, digest.hexdigest())}
        more = {"HF_ENDPOINT": hub.url, "HF_HOME": place, "HF_HUB_OFFLINE": "0", "JUPYTER_DATA_DIR": place}
        command = [sys.executable, "-m", "samovar_server.downloader.pull", "org/tiny"]
        began = time.monotonic()
        with subprocess.Popen(command, env={**os.environ, **more}, stdout=subprocess.DEVNULL) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
    assert process.returncode == 0
    print(f"{size / GB:.0f} GB in {seconds:.0f} s, at most {used.ru_maxrss / 1000:.0f} MB of memory")


MEASURES: dict[str, tuple[Any, int]] = {
    "kills": (kills, 200),
    "cancel": (cancel, 20),
    "memory": (memory, 10 * GB),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--count", type=int, help="trials, or bytes for memory")
    options = parser.parse_args()
    measure, usual = MEASURES[options.measure]
    measure(options.count or usual)
