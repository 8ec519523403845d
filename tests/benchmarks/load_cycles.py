"""Whether memory really returns: the demo model loaded, used and unloaded again and again.

    python -m tests.benchmarks.load_cycles --cycles 50

records the memory of the server, of all its processes and of the machine, and how long it takes after an
unload until it is back, and writes them with a plot to docs/benchmarks/. Linux only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from samovar_server.loader.devices import host_memory
from tests.benchmarks.report import write_report
from tests.benchmarks.results import LOAD_CYCLES, Cycle, Cycles, machine, versions, write
from tests.benchmarks.servers import LOAD_SECONDS
from tests.benchmarks.serving import pull
from tests.notebooks.jupyter import TOKEN, jupyter
from tests.processes import children_of

BACK_SECONDS = 2.0
"""How soon after an unload the memory has to be back."""
LOOK_SECONDS = 0.02
PAGE = os.sysconf("SC_PAGE_SIZE")
QUESTION = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    found = measure(pull("demo"), parser.parse_args().cycles)
    write(LOAD_CYCLES, found)
    write_report()


def measure(model: Path, count: int) -> Cycles:
    """So many cycles on a server without a spare worker, whose memory would come and go by itself."""
    found = Cycles(machine(), versions())
    with client_of_a_server(model) as (client, pid):
        cycle(client, pid)  # what the first one sets up stays, and is no leak
        for number in range(count):
            found.cycles.append(each := cycle(client, pid))
            print(f"{number + 1:3}: {each}", flush=True)
    return found


@contextmanager
def client_of_a_server(model: Path) -> Iterator[tuple[httpx.Client, int]]:
    """A Jupyter server with samovar in it: a client of its /v1, and its process id."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder:
        options = (f"--Workbench.model_folders={model.parent}", "--Workbench.spare_worker=False")
        with (
            jupyter(Path(folder), *options) as server,
            httpx.Client(
                base_url=f"{server.url}v1", headers=headers, timeout=LOAD_SECONDS, trust_env=False
            ) as client,
        ):
            yield client, server.process.pid


def cycle(client: httpx.Client, pid: int) -> Cycle:
    """Load, use, unload, and watch the memory come back."""
    before = host_memory().free_bytes
    began = time.perf_counter()
    client.post("/models/load", json={"model": "demo"}).raise_for_status()
    loaded = time.perf_counter()
    client.post("/completions", json=QUESTION).raise_for_status()
    with_model = family_bytes(pid)
    free_with_model = host_memory().free_bytes
    client.post("/models/unload", json={"model": "demo"}).raise_for_status()
    unloaded = time.perf_counter()
    while children_of(pid) and time.perf_counter() - unloaded < BACK_SECONDS:
        time.sleep(LOOK_SECONDS)
    return Cycle(
        load_seconds=loaded - began,
        loaded_bytes=with_model,
        back_seconds=time.perf_counter() - unloaded,
        left_bytes=family_bytes(pid) - resident(pid),
        server_bytes=resident(pid),
        machine_taken_bytes=before - free_with_model,
        machine_left_bytes=before - host_memory().free_bytes,
    )


def family_bytes(pid: int) -> int:
    """Resident memory of a process and of its children."""
    return resident(pid) + sum(resident(child) for child in children_of(pid))


def resident(pid: int) -> int:
    """Resident memory of a process; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
