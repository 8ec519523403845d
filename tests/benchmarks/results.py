"""What the benchmarks found, as files: one JSON file each in docs/benchmarks/."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.measures import Row
from tests.benchmarks.own import Gateway, LongArrival, Paired

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
SERVING, FIRST_TOKEN, LM_EVAL = "serving.json", "first_token.json", "lm_eval.json"
CELL_OVERHEAD = "cell_overhead.json"
LOAD_CYCLES, QUICK_LOAD = "load_cycles.json", "quick_load.json"
FAIRNESS = "fairness.json"


@dataclass
class Serving:
    """One run of serving.py. `skipped` says why a server was not measured."""

    machine: str
    versions: Mapping[str, str]
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    long_arrival: dict[str, LongArrival] = field(default_factory=dict)
    gateway: dict[str, Gateway] = field(default_factory=dict)

    def row(self, server: str, scenario: str) -> Row | None:
        """That server's numbers under that load, if it was measured."""
        found = (row for row in self.rows if (row.server, row.scenario) == (server, scenario))
        return next(found, None)

    def servers(self) -> list[str]:
        """The servers that were measured, in their order."""
        return list(dict.fromkeys(row.server for row in self.rows))

    def scenarios(self) -> list[str]:
        """The loads that were measured, in their order."""
        return list(dict.fromkeys(row.scenario for row in self.rows))


@dataclass(frozen=True)
class FirstToken:
    """One cold start: seconds that each stage took, in their order."""

    name: str
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Cycle:
    """One load and unload. `left_bytes` is what workers hold after it, `machine_left_bytes` what the machine
    has less free than before; other programs change that, too.
    """

    load_seconds: float
    loaded_bytes: int
    back_seconds: float
    left_bytes: int
    server_bytes: int
    machine_taken_bytes: int
    machine_left_bytes: int


@dataclass
class Cycles:
    """One run of load_cycles.py."""

    machine: str
    versions: Mapping[str, str]
    cycles: list[Cycle] = field(default_factory=list)


@dataclass
class Latency:
    """Seconds until the first token and until the whole answer, of one question after the other."""

    first_token: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)


@dataclass
class Fairness:
    """One run of fairness.py. `step_seconds` is what a step takes with all slots taken (a median)."""

    machine: str
    versions: Mapping[str, str]
    streams: int
    answer_tokens: int
    latencies: dict[str, Latency] = field(default_factory=dict)
    step_seconds: float = 0.0


@dataclass(frozen=True)
class CellOverhead:
    """One run of cell_overhead.py: seconds to the first text, by plain HTTP and in a cell, in turn."""

    machine: str
    versions: Mapping[str, str]
    server: Sequence[float]
    cell: Sequence[float]

    @property
    def added_p50(self) -> float:
        """What a cell adds in the middle: the difference of the medians."""
        return median(self.cell) - median(self.server)


@dataclass(frozen=True)
class Score:
    """One number of lm-eval, from its own backend and over HTTP from samovar."""

    task: str
    metric: str
    hf: float
    samovar: float


def read_serving() -> Serving | None:
    """The last run of serving.py."""
    found = read(SERVING)
    if found is None:
        return None
    return Serving(
        machine=found["machine"],
        versions=found["versions"],
        rows=[Row(**row) for row in found["rows"]],
        skipped=found["skipped"],
        long_arrival={name: LongArrival(**values) for name, values in found["long_arrival"].items()},
        gateway={name: gateway_of(values) for name, values in found["gateway"].items()},
    )


def gateway_of(values: Mapping[str, Any]) -> Gateway:
    speeds = {load: Paired(**pairs) for load, pairs in values["speeds"].items()}
    return Gateway(speeds, Paired(**values["ttft"]))


def read_first_token() -> list[FirstToken]:
    """The last run of first_token.py."""
    return [FirstToken(**start) for start in read(FIRST_TOKEN) or ()]


def read_scores() -> list[Score]:
    """The last run of lm_eval_scores.py."""
    return [Score(**score) for score in read(LM_EVAL) or ()]


def read_quick_load() -> list[FirstToken]:
    """The last run of quick_load.py."""
    return [FirstToken(**run) for run in read(QUICK_LOAD) or ()]


def read_cycles() -> Cycles | None:
    """The last run of load_cycles.py."""
    if (found := read(LOAD_CYCLES)) is None:
        return None
    return Cycles(**{**found, "cycles": [Cycle(**cycle) for cycle in found["cycles"]]})


def read_cell_overhead() -> CellOverhead | None:
    """The last run of cell_overhead.py."""
    found = read(CELL_OVERHEAD)
    return None if found is None else CellOverhead(**found)


def read_fairness() -> Fairness | None:
    """The last run of fairness.py."""
    if (found := read(FAIRNESS)) is None:
        return None
    latencies = {name: Latency(**values) for name, values in found["latencies"].items()}
    return Fairness(**{**found, "latencies": latencies})


Found = Serving | Cycles | CellOverhead | Fairness


def write(name: str, found: Found | Sequence[FirstToken] | Sequence[Score]) -> None:
    """Keep what was found."""
    plain = (
        asdict(found)
        if isinstance(found, Serving | Cycles | CellOverhead | Fairness)
        else [asdict(each) for each in found]
    )
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / name).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def read(name: str) -> Any:
    """The file's content; None when there is no such file."""
    path = DOCS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def machine() -> str:
    """What this machine is, in a line."""
    names = [
        line.partition(":")[2].strip()
        for line in read_lines(Path("/proc/cpuinfo"))
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def versions() -> dict[str, str]:
    """Of what samovar runs on."""
    return {name: version(name) for name in ("samovar", "torch", "transformers")}
