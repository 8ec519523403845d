"""How long the spare worker takes from a request to the first token, beside bare transformers.

    python -m tests.benchmarks.quick_load

Each run is a process of its own that has imported torch and transformers and loaded nothing yet: once a
script of `from_pretrained` and one forward pass, once samovar's worker, which also checks what it loads,
warms up and answers over HTTP. The median run of each is written to docs/benchmarks/.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from samovar_server.loader.spec import Progress, Ready, WorkerSpec, parse_event, spec_line
from tests.benchmarks.report import write_report
from tests.benchmarks.results import QUICK_LOAD, FirstToken, write
from tests.benchmarks.serving import pull

RUNS = 5
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
BARE = """
import json, sys, time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, question = sys.argv[1], json.loads(sys.argv[2])
times = [time.perf_counter()]
tokenizer = AutoTokenizer.from_pretrained(folder)
times.append(time.perf_counter())
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
times.append(time.perf_counter())
prompt = tokenizer.apply_chat_template(
    question, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
with torch.inference_mode():
    model(**prompt).logits[0, -1].argmax().item()
times.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(times, times[1:])]))
"""


def main() -> None:
    model = pull("demo")
    found = [median_of(lambda: bare(model)), median_of(lambda: worker(model))]
    for each in found:
        print(each.name, f"{total(each):.2f} s", dict(each.stages))
    write(QUICK_LOAD, found)
    write_report()


def median_of(run: Callable[[], FirstToken]) -> FirstToken:
    """The run in the middle of RUNS, by the whole time."""
    return sorted((run() for _ in range(RUNS)), key=total)[RUNS // 2]


def total(run: FirstToken) -> float:
    return sum(run.stages.values())


def bare(model: Path) -> FirstToken:
    """What a script takes."""
    command = [sys.executable, "-c", BARE, model, json.dumps(QUESTION)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    tokenizer, weights, prefill = json.loads(done.stdout.splitlines()[-1])
    return FirstToken(
        "bare transformers", {"tokenizer": tokenizer, "weights": weights, "prefill, first token": prefill}
    )


def worker(model: Path) -> FirstToken:
    """What the spare worker takes once it is told its model."""
    spec = WorkerSpec(str(model), "demo", "cpu", "float32", "none", None, 16, 16, "secret")
    command = [sys.executable, "-m", "samovar_server.engine.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # it has imported its libraries
        began = time.perf_counter()
        process.stdin.write(spec_line(spec))
        process.stdin.flush()
        warming: float | None = None
        while not isinstance(event := parse_event(process.stdout.readline()), Ready):
            if isinstance(event, Progress) and event.phase == "warmup" and warming is None:
                warming = time.perf_counter()
        ready = time.perf_counter()
        first = first_token(event.port)
        process.kill()
    assert warming is not None
    return FirstToken(
        "samovar's spare worker",
        {
            "tokenizer, weights, self-check": warming - began,
            "warm-up": ready - warming,
            "prefill, first token": first - ready,
        },
    )


def first_token(port: int) -> float:
    """When the first piece of an answer is here."""
    body = {"messages": QUESTION, "stream": True, "max_tokens": 4}
    headers = {"Authorization": "Bearer secret"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", url, json=body, headers=headers) as answer,
    ):
        next(answer.iter_raw())
        return time.perf_counter()


if __name__ == "__main__":
    main()
