"""docs/benchmarks/README.md, written from the JSON files beside it after each benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import median, quantiles

from tests.benchmarks.measures import Row, percentile
from tests.benchmarks.own import Gateway
from tests.benchmarks.plot import memory, throughput, waits
from tests.benchmarks.results import (
    DOCS,
    CellOverhead,
    Cycles,
    Fairness,
    FirstToken,
    Score,
    Serving,
    read_cell_overhead,
    read_cycles,
    read_fairness,
    read_first_token,
    read_quick_load,
    read_scores,
    read_serving,
)
from tests.benchmarks.targets import CELL_COST, verdicts

PLOT, CYCLES_PLOT, FAIRNESS_PLOT = "serving.svg", "load_cycles.svg", "fairness.svg"
MB = 10**6
FAIR_RATIO = 2.0
INTRODUCTION = """\
# Benchmarks

Written by `tests/benchmarks/`, not by hand. All servers ran on the same machine, each in a process of its
own, with the same model (the demo, SmolLM2-135M-Instruct), and were asked over HTTP by the same client, never
two at once: streamed completions, greedy.
"""


def write_report() -> None:
    """Write the page, and the plot, from what there is."""
    sections: list[str] = [INTRODUCTION]
    if (serving := read_serving()) is not None:
        short = [scenario for scenario in serving.scenarios() if scenario.startswith("short")]
        (DOCS / PLOT).write_text(throughput(serving, short), encoding="utf-8")
        sections += serving_sections(serving)
    if starts := read_first_token():
        sections += first_token_section(starts)
    if (cell := read_cell_overhead()) is not None:
        sections += cell_section(cell)
    if runs := read_quick_load():
        sections += quick_load_section(runs)
    if (cycles := read_cycles()) is not None:
        (DOCS / CYCLES_PLOT).write_text(memory(cycles), encoding="utf-8")
        sections += cycles_section(cycles)
    if (fairness := read_fairness()) is not None:
        (DOCS / FAIRNESS_PLOT).write_text(waits(fairness), encoding="utf-8")
        sections += fairness_section(fairness)
    if scores := read_scores():
        sections += scores_section(scores)
    (DOCS / "README.md").write_text("\n".join(sections), encoding="utf-8")


def quick_load_section(runs: Sequence[FirstToken]) -> Iterator[str]:
    yield "## From a request to the first token, by the spare worker\n"
    yield (
        "The demo model in a process that has imported torch and transformers and loaded nothing yet, the "
        "median of five. A script's first tokenizer and model also import transformers' modules for them, "
        "which the spare worker has done ahead. Again: `python -m tests.benchmarks.quick_load`.\n"
    )
    rows = [[run.name, stage, f"{seconds:.2f}"] for run in runs for stage, seconds in run.stages.items()]
    totals = [sum(run.stages.values()) for run in runs]
    rows += [
        [run.name, "**all**", f"**{all_of_it:.2f}**"] for run, all_of_it in zip(runs, totals, strict=True)
    ]
    yield table(["", "stage", "seconds"], rows)
    yield f"samovar takes {totals[1] / totals[0]:.2f} times as long as the script; the aim is at most 1.5.\n"


def cycles_section(found: Cycles) -> Iterator[str]:
    cycles = found.cycles
    first, last = cycles[0], cycles[-1]
    yield f"## Memory over {len(cycles)} loads and unloads\n"
    yield f"{found.machine}. Again: `python -m tests.benchmarks.load_cycles`.\n"
    yield f"![Memory with the model and after its unload]({CYCLES_PLOT})\n"
    yield (
        "The demo model is loaded, asked for a token and unloaded, on a server without a spare worker. "
        "Memory is resident memory in MB; the machine's own is what it has less available than before the "
        "load, and other programs change it, too.\n"
    )
    rows = [
        ["server and worker with the model", middle([c.loaded_bytes / MB for c in cycles])],
        ["workers after the unload", middle([c.left_bytes / MB for c in cycles])],
        ["machine, with the model", middle([c.machine_taken_bytes / MB for c in cycles])],
        ["machine, after the unload", middle([c.machine_left_bytes / MB for c in cycles])],
        [
            "server, after the first and the last cycle",
            f"{first.server_bytes / MB:.1f}, {last.server_bytes / MB:.1f}",
        ],
        ["load, seconds", middle([c.load_seconds for c in cycles], 2)],
        ["from the unload's answer to no worker, seconds", middle([c.back_seconds for c in cycles], 3)],
    ]
    yield table(["", "median (smallest to largest)"], rows)


def fairness_section(found: Fairness) -> Iterator[str]:
    yield f"## A question beside {found.streams} streams of another user\n"
    yield f"{found.machine}. Again: `python -m tests.benchmarks.fairness`.\n"
    yield f"![How long each answer took]({FAIRNESS_PLOT})\n"
    yield (
        f"One user asks questions (answers of {found.answer_tokens} tokens) of the Hub's service, fp32, "
        f"16 slots and 4 kept for newcomers, while another keeps {found.streams} long streams busy. Without "
        "the policy the questions are the other user's own, whose requests are served in their order. "
        "Seconds, p50 / p95.\n"
    )
    yield table(
        ["", "questions", "first token", "whole answer"],
        (
            [name, f"{len(latency.answer)}", both(latency.first_token), both(latency.answer)]
            for name, latency in found.latencies.items()
        ),
    )
    alone, fair, _ = (percentile(latency.answer, 0.95) for latency in found.latencies.values())
    allowed = FAIR_RATIO * alone + found.step_seconds
    said = "reached" if fair <= allowed else "missed"
    yield (
        f"A step with all slots taken takes {found.step_seconds:.3f} s. The aim, p95 at most {FAIR_RATIO:g} "
        f"times its p95 alone plus one step ({allowed:.2f} s), is {said}: {fair:.2f} s, "
        f"{fair / alone:.2f} times.\n"
    )


def both(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.2f} / {percentile(values, 0.95):.2f}"


def middle(values: Sequence[float], digits: int = 0) -> str:
    low, high = min(values), max(values)
    return f"{median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def serving_sections(serving: Serving) -> Iterator[str]:
    yield "## Serving\n"
    of = ", ".join(f"{name} {version}" for name, version in serving.versions.items())
    yield f"{serving.machine}; {of}. Again: `python -m tests.benchmarks.serving --help`.\n"
    yield f"![Output tokens per second]({PLOT})\n"
    yield (
        "Output tokens per second of all clients together; TTFT is the time to the first token, ITL the time "
        "between tokens, in milliseconds, p50 / p95. All clients send their request at the same moment. "
        "`transformers serve` has no `ignore_eos`, so some of its texts end early; only tokens that came are "
        "counted. The servers take turns: short loads up to 16 clients in three rounds, of which the medians "
        "are shown, the others once. On a virtual machine a tenth more or less says little.\n"
    )
    yield (
        "samovar checks drafts of what follows together with the newest token (speculative decoding), and "
        "sends all that were right at the same moment: so half of the times between tokens may be next to "
        "nothing. A small model's greedy continuations of meaningless words repeat themselves more than most "
        "texts do, so drafts are worth more here than elsewhere. The rows *not speculative* are without. The "
        "others run as they do by default, which is without, too.\n"
    )
    for scenario in serving.scenarios():
        rows = [row for row in serving.rows if row.scenario == scenario]
        yield f"### {scenario[0].upper()}{scenario[1:]}\n"
        yield table(["server", "tok/s", "TTFT ms", "ITL ms", "tokens a request"], map(cells, rows))
    if any(row.finished < row.clients for row in serving.rows):
        yield (
            "A load was cut off at the time limit, which shows where there are fewer tokens a request than "
            "asked for. The tokens until then count. ≥: that many requests had no token by then.\n"
        )
    for name, reason in serving.skipped.items():
        yield f"Not measured: {name}, {reason}.\n"
    if serving.long_arrival:
        yield "### A long prompt comes while three streams run\n"
        yield table(
            [
                "server",
                "prompt tokens",
                "its TTFT s",
                "streams' ITL before ms",
                "meanwhile ms",
                "p95 stretched",
            ],
            (
                [
                    name,
                    f"{long.prompt_tokens}",
                    f"{long.prefill:.1f}",
                    f"{ms(long.before_p50)} / {ms(long.before_p95)}",
                    f"{ms(long.during_p50)} / {ms(long.during_p95)}",
                    f"{long.stretch:.1f} times",
                ]
                for name, long in serving.long_arrival.items()
            ),
        )
    if serving.gateway:
        yield "### What the gateway costs\n"
        yield (
            "The same loads at the worker itself and through Jupyter's `/v1`, in many short rounds by turns, "
            "the other first in every other round. The medians of both, and of what the gateway costs within "
            "a round, with its quartiles.\n"
        )
        yield table(
            ["server", "", "direct", "through /v1", "cost"],
            [row for name, both in serving.gateway.items() for row in gateway_rows(name, both)],
        )
    yield "### Targets\n"
    yield table(["target", "measured", ""], verdicts(serving))


def cells(row: Row) -> list[str]:
    return [
        row.server,
        f"{row.tokens_per_second:.1f}",
        f"{at_least(row.ttft_p50, row)} / {at_least(row.ttft_p95, row)}",
        f"{ms(row.gap_p50)} / {ms(row.gap_p95)}",
        f"{row.output_tokens / row.clients:.0f}",
    ]


def gateway_rows(server: str, found: Gateway) -> Iterator[list[str]]:
    """What the gateway costs `server`, measure by measure."""
    for load, speed in found.speeds.items():
        loss = speed.loss
        yield [
            server,
            f"tok/s, {load}",
            f"{median(speed.direct):.1f}",
            f"{median(speed.through):.1f}",
            f"{loss.median:.1%} ({loss.low:.1%} to {loss.high:.1%})",
        ]
    ttft, more = found.ttft, found.ttft.more
    yield [
        server,
        "TTFT ms",
        f"{1000 * median(ttft.direct):.1f}",
        f"{1000 * median(ttft.through):.1f}",
        f"{1000 * more.median:.1f} ms ({1000 * more.low:.1f} to {1000 * more.high:.1f})",
    ]


def at_least(first_token: float, row: Row) -> str:
    """A time to first token; marked where it is that of a request which had none when time was up."""
    return ("≥ " if row.finished < row.clients and first_token >= row.seconds else "") + ms(first_token)


def first_token_section(starts: Sequence[FirstToken]) -> Iterator[str]:
    yield "## From a cold start to the first token of `%%generate`\n"
    yield "Seconds that each stage takes. Again: `python -m tests.benchmarks.first_token`.\n"
    stages = list(starts[0].stages)
    rows = [[stage, *(f"{start.stages[stage]:.2f}" for start in starts)] for stage in stages]
    rows.append(["**all**", *(f"**{sum(start.stages.values()):.2f}**" for start in starts)])
    yield table(["stage", *(start.name for start in starts)], rows)


def cell_section(found: CellOverhead) -> Iterator[str]:
    yield "## What a cell adds to the server's first token\n"
    yield f"{found.machine}. Again: `python -m tests.benchmarks.cell_overhead`.\n"
    yield (
        "From sending the cell to its kernel to the first output with text, beside the same question by "
        f"plain HTTP; {len(found.cell)} of each in turn, with the model in memory, in milliseconds.\n"
    )
    rows = [
        [name, ms(median(seconds)), ms(quantiles(seconds, n=20)[-1])]
        for name, seconds in (("server", found.server), ("cell", found.cell))
    ]
    yield table(["", "p50", "p95"], rows)
    reached = "reached" if found.added_p50 <= CELL_COST else "**missed**"
    yield (
        f"A cell adds {1000 * found.added_p50:.0f} ms (p50); the aim is at most {1000 * CELL_COST:.0f} ms: "
        f"{reached}.\n"
    )


def scores_section(scores: Sequence[Score]) -> Iterator[str]:
    yield "## lm-eval: the same scores\n"
    yield (
        "lm-eval's `local-completions` against samovar, beside its own `hf` backend on the same model, with "
        "two small tasks of our own. Again: `python -m tests.benchmarks.lm_eval_scores --help`.\n"
    )
    yield table(
        ["task", "metric", "`hf`", "samovar", "difference"],
        (
            [
                score.task,
                score.metric,
                f"{score.hf:.6f}",
                f"{score.samovar:.6f}",
                f"{abs(score.hf - score.samovar):.1e}",
            ]
            for score in scores
        ),
    )


def ms(seconds: float) -> str:
    """Milliseconds, as exactly as they can be taken."""
    return "-" if math.isnan(seconds) else f"{1000 * seconds:.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    write_report()
