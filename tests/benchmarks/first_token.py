"""From a cold start to the first token of `%%generate`: how long each stage takes.

    python -m tests.benchmarks.first_token

starts a Jupyter server and a kernel, once with the spare worker and once without, runs the cells a newcomer
runs, and writes the stages to docs/benchmarks/.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tests.benchmarks.report import write_report
from tests.benchmarks.results import FIRST_TOKEN, FirstToken, write
from tests.benchmarks.servers import LOAD_SECONDS, tell_worker_address
from tests.benchmarks.serving import pull
from tests.notebooks.jupyter import Jupyter, Kernel, Watch, failed, jupyter, text_of

QUESTION = "%%generate --max-tokens 8\nWhy is the sky blue?"
NOT_YET = ("Loading ", "waiting for a free slot")
"""What a cell shows before its text begins."""


def main() -> None:
    model = pull("demo")
    found = [cold_start("with the spare worker", model, spare=True)]
    found.append(cold_start("without", model, spare=False))
    for start in found:
        print(f"{start.name}: {sum(start.stages.values()):.2f} s")
        for stage, seconds in start.stages.items():
            print(f"  {stage:44} {seconds:6.2f} s")
    write(FIRST_TOKEN, found)
    write_report()


def cold_start(name: str, model: Path, *, spare: bool) -> FirstToken:
    """One start, from nothing to the first token and back to nothing."""
    marks = {"": time.time()}
    with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder:
        options = (
            *tell_worker_address(Path(folder)),
            f"--Workbench.model_folders={model.parent}",
            f"--Workbench.spare_worker={spare}",
        )
        with jupyter(Path(folder), *options) as server:
            marks["the Jupyter server starts"] = time.time()
            marks |= asyncio.run(in_a_kernel(server))
    return FirstToken(
        name, {stage: after - before for (_, before), (stage, after) in pairwise(marks.items())}
    )


async def in_a_kernel(server: Jupyter) -> dict[str, float]:
    """When each stage ended, in seconds of `time.time()`."""
    marks: dict[str, float] = {}
    async with server.kernel() as kernel:
        await run(kernel, "pass")
        marks["a kernel starts"] = time.time()
        await run(kernel, "%load_ext samovar")
        marks["`%load_ext samovar`"] = time.time()
        phases, shown = await asyncio.gather(load_phases(kernel), first_text(kernel))
        marks["the worker imports torch and transformers"] = phases["weights"]
        marks["weights are read"] = phases["warmup"]
        marks["the worker warms up"] = phases["ready"]
        marks["prefill, first token shown in the cell"] = shown
    return marks


async def load_phases(kernel: Kernel) -> dict[str, float]:
    """When each phase of the load that the cell waits for began: the same load, joined."""
    answer = await kernel.client.post("worker-address", json={"model": "demo"}, timeout=LOAD_SECONDS)
    phases: dict[str, float] = answer.raise_for_status().json()["phases"]
    return phases


async def first_text(kernel: Kernel) -> float:
    """Run `%%generate`; when its first text was there to be seen."""
    seen: list[float] = []

    async def look(cell: NotebookNode) -> None:
        shown = text_of(cell)
        if shown and not any(words in shown for words in NOT_YET):
            seen.append(time.time())

    await run(kernel, QUESTION, look)
    return seen[0]


async def run(kernel: Kernel, code: str, look: Watch | None = None) -> None:
    cell = new_code_cell(code)
    await kernel.run(cell, look)
    assert not failed(cell), text_of(cell)


if __name__ == "__main__":
    main()
