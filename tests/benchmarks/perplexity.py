"""Perplexity, memory and decode speed of a model in every quantisation, as a table.

    python -m tests.benchmarks.perplexity FOLDER [QUANTIZATION ...]

FOLDER holds a model in safetensors. Each quantisation is measured in a process of its own, whose memory
before the load is taken off. The text is tests/data/alice.txt, the beginning of "Alice's Adventures in
Wonderland" (Lewis Carroll, 1865, in the public domain).
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TEXT = Path(__file__).parents[1] / "data" / "alice.txt"
WINDOW = 1024
CHUNK = 256
STEPS = 20
ROWS = (1, 4, 16)


def main() -> None:
    folder, asked = sys.argv[1], sys.argv[2:]
    quantizations = asked or ["none", "int8", "int4", "nf4"]
    print("| quantization | perplexity | against none | memory MB | decode ms, 1 / 4 / 16 rows |")
    print("|---|---|---|---|---|")
    first: float | None = None
    for quantization in quantizations:
        command = [sys.executable, "-m", "tests.benchmarks.perplexity", folder, "--one", quantization]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        got: dict[str, Any] = json.loads(output.splitlines()[-1])
        first = first or got["perplexity"]
        times = " / ".join(f"{ms:.1f}" for ms in got["decode_ms"])
        change = f"{100 * (got['perplexity'] / first - 1):+.2f} %"
        megabytes = f"{got['bytes'] / 1e6:.0f}"
        print(f"| {quantization} | {got['perplexity']:.2f} | {change} | {megabytes} | {times} |", flush=True)


def measure(folder: str, quantization: str) -> dict[str, Any]:
    """What one quantisation costs and gives; in a fresh process."""
    import torch

    from samovar_server.engine.loading import load
    from samovar_server.engine.runner import Runner
    from samovar_server.loader.spec import WorkerSpec

    before = _resident_bytes()
    loaded = load(
        WorkerSpec(folder, "model", "cpu", "float32", quantization, None, 16, 16, "secret"), lambda _: None
    )
    memory = _resident_bytes() - before
    tokens = loaded.tokenizer(TEXT.read_text()).input_ids
    runner = Runner(loaded.model, max(ROWS), WINDOW)
    loss, count = 0.0, 0
    for first in range(0, len(tokens) - 1, WINDOW):
        window = tokens[first : first + WINDOW]
        logits = torch.cat(
            [
                runner.prefill(0, window[start : start + CHUNK], start, every=True)
                for start in range(0, len(window), CHUNK)
            ]
        )
        targets = torch.tensor(window[1:])
        loss += torch.nn.functional.cross_entropy(logits[:-1].float(), targets, reduction="sum").item()
        count += len(targets)
    return {
        "perplexity": math.exp(loss / count),
        "bytes": memory,
        "decode_ms": [_decode_ms(runner, rows) for rows in ROWS],
    }


def _decode_ms(runner: Any, rows: int) -> float:
    """The best of some steps: others that run on the machine only ever add."""
    slots = list(range(rows))
    for slot in slots:
        runner.prefill(slot, [1, 2, 3], 0)
    times = []
    for step in range(STEPS):
        began = time.perf_counter()
        runner.decode(slots, [4] * rows, [3 + step] * rows)
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def _resident_bytes() -> int:
    """Memory of this process now, once what was freed is given back."""
    import ctypes
    import gc

    import psutil

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(measure(sys.argv[1], sys.argv[-1])))
    else:
        main()
