"""What the notebook adds to the server's time to first token: from Shift-Enter to the first text in the cell.

    python -m tests.benchmarks.cell_overhead

starts a Jupyter server and a kernel, and asks the same question in turn by a cell of the kernel and by plain
HTTP, with the model in memory. What a cell adds is the difference: the kernel's messages, the magic, and the
question whether the model is there.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from tests.benchmarks.report import write_report
from tests.benchmarks.results import CELL_OVERHEAD, CellOverhead, machine, versions, write
from tests.benchmarks.serving import pull
from tests.notebooks.jupyter import TOKEN, Jupyter, jupyter

QUESTION = "Why is the sky blue?"
CELL = f"%%generate --temperature 0 --max-tokens 4\n{QUESTION}"
ROUNDS, WARM_UP = 40, 3
PATIENCE = 120.0


def main() -> None:
    model = pull("demo")
    with (
        tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder,
        jupyter(Path(folder), f"--Workbench.model_folders={model.parent}") as server,
    ):
        found = measure(server)
    print(f"a cell adds {1000 * found.added_p50:.1f} ms (p50)")
    write(CELL_OVERHEAD, found)
    write_report()


def measure(server: Jupyter) -> CellOverhead:
    """Both ways in turn, so that what else the machine does falls on both."""
    by_http, by_cell = [], []
    with kernel(server) as client, httpx.Client(trust_env=False, timeout=PATIENCE) as http:
        for _ in range(WARM_UP):
            first_in_cell(client)
            first_by_http(http, server)
        for _ in range(ROUNDS):
            by_http.append(first_by_http(http, server))
            by_cell.append(first_in_cell(client))
    return CellOverhead(machine(), versions(), by_http, by_cell)


@contextmanager
def kernel(server: Jupyter) -> Iterator[BlockingKernelClient]:
    """A kernel with the magics, that finds the server by its environment."""
    environment = {**os.environ, "SAMOVAR_URL": f"{server.url}v1", "SAMOVAR_TOKEN": TOKEN}
    manager, client = start_new_kernel(env=environment)
    try:
        client.execute_interactive("%load_ext samovar", timeout=PATIENCE)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def first_in_cell(client: BlockingKernelClient) -> float:
    """Seconds from sending the cell to the first output that shows text."""
    began = time.perf_counter()
    request = client.execute(CELL)
    first: float | None = None
    while True:
        message: dict[str, Any] = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        if message["msg_type"] in {"display_data", "update_display_data"} and first is None:
            text = content["data"]["text/plain"]
            if text and "waiting for" not in text and "Loading" not in text:
                first = time.perf_counter()
        if content.get("execution_state") == "idle":
            break
    assert client.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "ok"
    assert first is not None
    return first - began


def first_by_http(http: httpx.Client, server: Jupyter) -> float:
    """Seconds from sending the request to the first event that brings text."""
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 4,
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {TOKEN}"}
    began = time.perf_counter()
    first: float | None = None
    with http.stream("POST", f"{server.url}v1/chat/completions", json=body, headers=headers) as answer:
        for line in answer.raise_for_status().iter_lines():
            if first is None and has_text(line):
                first = time.perf_counter()
    assert first is not None
    return first - began


def has_text(line: str) -> bool:
    """Whether a line of the stream brings text."""
    if not line.startswith("data: {"):
        return False
    return any(choice["delta"].get("content") for choice in json.loads(line[6:])["choices"])


if __name__ == "__main__":
    main()
