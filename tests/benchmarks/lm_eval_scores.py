"""lm-eval's scores over HTTP from samovar, beside those of its own `hf` backend on the same model.

    python -m tests.benchmarks.lm_eval_scores --python ENVIRONMENT/bin/python

`--python` has lm_eval[api], torch and transformers. The tasks are small ones of our own, in lm_eval_tasks/,
so that nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import NotHereError, require_modules
from tests.benchmarks.report import write_report
from tests.benchmarks.results import LM_EVAL, Score, write
from tests.benchmarks.servers import samovar
from tests.benchmarks.serving import pull
from tests.notebooks.jupyter import TOKEN

ROOT = Path(__file__).parents[2]
TASKS = "samovar_choice,samovar_text"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the Python with lm_eval")
    python: Path = parser.parse_args().python
    try:
        require_modules(python, "lm_eval", "torch", install="'lm_eval[api]' torch", option="--python")
    except NotHereError as reason:
        sys.exit(f"cannot run here: {reason}")
    model = pull("demo")
    with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder:
        hf = evaluate(python, Path(folder, "hf"), "hf", f"pretrained={model},dtype=float32")
        with samovar(model, "none").start(Path(folder)) as served:
            endpoint = served.endpoint
            ours = evaluate(
                python,
                Path(folder, "samovar"),
                "local-completions",
                f"base_url={endpoint.url}/completions,model={endpoint.model},tokenizer={model},"
                "tokenizer_backend=huggingface,num_concurrent=4,max_length=8192",
            )
    scores = [
        Score(task, metric.removesuffix(",none"), value, ours[task][metric])
        for task, metrics in hf.items()
        for metric, value in metrics.items()
        if isinstance(value, float) and "stderr" not in metric
    ]
    for score in scores:
        print(f"{score.task:16} {score.metric:16} hf {score.hf:.6f}   samovar {score.samovar:.6f}")
    write(LM_EVAL, scores)
    write_report()


def evaluate(python: Path, output: Path, backend: str, arguments: str) -> dict[str, dict[str, Any]]:
    """lm-eval's metrics by task."""
    subprocess.run(
        [
            *(python, "-m", "lm_eval", "run", "--model", backend, "--model_args", arguments),
            *("--tasks", TASKS, "--include_path", Path(__file__).parent / "lm_eval_tasks"),
            *("--device", "cpu", "--output_path", output),
        ],
        cwd=ROOT,  # the tasks name their data from there
        env={**os.environ, "OPENAI_API_KEY": TOKEN, "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    (results,) = output.rglob("results_*.json")
    metrics: dict[str, dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))["results"]
    return metrics


if __name__ == "__main__":
    main()
