"""samovar and its peers under the same loads on this machine, in one go.

    python -m tests.benchmarks.serving

starts all servers, warms them up, loads them by turns, and writes docs/benchmarks/. Servers whose environment
is not here are skipped, loudly, and named in the report. The machine should have nothing else to do and room
for all of the models. `--quick` tries everything out in some minutes and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
from jupyter_core.paths import jupyter_data_dir

from tests.benchmarks.client import http_client, run
from tests.benchmarks.measures import Row, middle, summarise
from tests.benchmarks.own import gateway, long_arrival
from tests.benchmarks.processes import NotHereError
from tests.benchmarks.report import cells, gateway_rows, write_report
from tests.benchmarks.results import SERVING, Serving, machine, versions, write
from tests.benchmarks.scenarios import Scenario, gateway_loads, scenarios
from tests.benchmarks.servers import SLOTS, Served, Server, llamacpp, samovar, transformers_serve, vllm

WARM_UP = Scenario("warm-up", 2, 60, 8)
WARM_UP_SECONDS = 120.0
SETTLE_SECONDS = 3.0
"""Before each turn: threads of some servers go on looking for work for a while."""


class Contender:
    """A server that runs and has been warmed up; it can be started anew."""

    def __init__(self, server: Server, folder: Path) -> None:
        """NotHereError where it cannot run."""
        self.name = server.name
        self._server = server
        self._folder = folder
        self._running = ExitStack()
        self.served = self._start()

    def _start(self) -> Served:
        return self._running.enter_context(self._server.start(self._folder))

    async def warm_up(self, client: httpx.AsyncClient) -> None:
        """Its first answers, which take longer."""
        prompts = WARM_UP.prompts(self.name)
        await run(client, self.served.endpoint, prompts, WARM_UP.max_tokens, WARM_UP_SECONDS)

    async def clear(self, client: httpx.AsyncClient) -> None:
        """See to it that nothing of a load that was cut off is still computed."""
        if not self._server.lingers:
            return
        self.end()
        self.served = self._start()
        await self.warm_up(client)

    def end(self) -> None:
        """Stop it."""
        self._running.close()


def main() -> None:
    options = parse()
    found = Serving(machine(), versions())
    with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder, ExitStack() as stack:
        contenders = []
        for number, server in enumerate(servers(options)):
            if options.only and not any(name in server.name for name in options.only):
                found.skipped[server.name] = "it was left out (--only)"
                continue
            own = Path(folder, str(number))
            own.mkdir()
            try:
                contenders.append(Contender(server, own))
            except NotHereError as reason:
                print(f"{server.name}: SKIPPED: {reason}", flush=True)
                found.skipped[server.name] = str(reason).rstrip(".")
            else:
                stack.callback(contenders[-1].end)
                print(f"{server.name}: runs", flush=True)
        asyncio.run(measure(contenders, scenarios(options.quick), found, options))
    if not options.quick:
        write(SERVING, found)
        write_report()


async def measure(
    contenders: Sequence[Contender], loads: Sequence[Scenario], found: Serving, options: argparse.Namespace
) -> None:
    """All loads by turns, so that a machine that is slower for some minutes is so for all; then what only
    samovar is asked."""
    async with http_client() as client:
        for contender in contenders:
            await contender.warm_up(client)
        for load in loads:
            print(f"\n{load.name}", flush=True)
            rounds = [
                await measure_round(client, contenders, load, number, found, options.limit)
                for number in range(load.rounds)
            ]
            for contender in contenders:
                rows = [measured[contender.name] for measured in rounds if contender.name in measured]
                if not rows:
                    continue
                row = middle(rows)
                _, speed, first, gap, _ = cells(row)
                print(f"  {row.server:40} {speed:>6} tok/s   TTFT {first} ms   ITL {gap} ms", flush=True)
                found.rows.append(row)
        for contender in contenders:
            if contender.served.direct is not None and contender.name not in found.skipped:
                print(f"\n{contender.name}", flush=True)
                await measure_own(client, contender.name, contender.served, found, quick=options.quick)


async def measure_round(
    client: httpx.AsyncClient,
    contenders: Sequence[Contender],
    load: Scenario,
    number: int,
    found: Serving,
    limit: float,
) -> dict[str, Row]:
    """One row for each server. Every other round begins with the last one.

    A server that ends meanwhile (by itself, or because memory ran out) is noted as skipped, and is so from
    then on.
    """
    rows = {}
    for contender in contenders if number % 2 == 0 else reversed(contenders):
        if contender.name in found.skipped:
            continue
        await asyncio.sleep(SETTLE_SECONDS)
        prompts = load.prompts(f"round {number}")
        try:
            measured = await run(client, contender.served.endpoint, prompts, load.max_tokens, limit)
        except ExceptionGroup as group:
            if group.split(httpx.TransportError)[1] is not None:
                raise
            print(f"  {contender.name}: ENDED: {group.exceptions[0]!r}", flush=True)
            found.skipped[contender.name] = f"from the load {load.name!r} on, in which it ended"
            continue
        row = rows[contender.name] = summarise(contender.name, load, measured)
        if row.finished < row.clients:
            await contender.clear(client)
    return rows


async def measure_own(
    client: httpx.AsyncClient, name: str, served: Served, found: Serving, *, quick: bool
) -> None:
    """What only samovar is asked."""
    assert served.direct is not None
    through, direct = served.endpoint, served.direct
    long_tokens, settle = (300, 8) if quick else (4000, 40)
    found.long_arrival[name] = long = await long_arrival(
        client, through, long_tokens=long_tokens, settle=settle
    )
    print(f"  long prompt while streams run: ITL p95 {long.stretch:.2f} times as long", flush=True)
    loads, rounds = gateway_loads(quick), 2 if quick else 24
    found.gateway[name] = both = await gateway(client, through, direct, loads=loads, rounds=rounds)
    for row in gateway_rows(name, both):
        print(f"  gateway: {', '.join(row[1:])}", flush=True)


def servers(options: argparse.Namespace) -> list[Server]:
    model = options.model or pull("demo")
    gguf = options.gguf or next(pull("demo:Q4_1").glob("*.gguf"))
    return [
        samovar(model, "none"),
        samovar(model, "int4"),
        samovar(model, "none", speculative=False),
        samovar(model, "int4", speculative=False),
        transformers_serve(model, options.transformers_python, continuous_batching=False),
        transformers_serve(model, options.transformers_python, continuous_batching=True),
        llamacpp(gguf, options.llamacpp_python),
        vllm(model, options.vllm_command, options.vllm_url),
    ]


def pull(model: str) -> Path:
    """The model's folder; it is brought here if it is not."""
    folder = Path(jupyter_data_dir(), "samovar", "models")
    command = [sys.executable, "-m", "samovar_server.downloader.pull", model, "--folder", folder]
    pulled = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    path = Path(json.loads(pulled.stdout.splitlines()[-1])["path"])
    return path if path.is_dir() else path.parent


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(sys.executable)
    parser.add_argument(
        "--quick", action="store_true", help="a few tokens each, to try it out; writes nothing"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="only servers with one of these in the name"
    )
    parser.add_argument(
        "--limit", type=float, default=20.0, metavar="SECONDS", help="cut a load off after this (20)"
    )
    parser.add_argument("--model", type=Path, help="a model folder (default: the demo model, pulled)")
    parser.add_argument("--gguf", type=Path, help="the same for llama.cpp (default: demo:Q4_1, pulled)")
    parser.add_argument(
        "--transformers-python", type=Path, default=here, help="a Python with transformers[serving]"
    )
    parser.add_argument("--llamacpp-python", type=Path, default=here, help="a Python with xllamacpp")
    parser.add_argument(
        "--vllm-command",
        help="starts vLLM; {model} and {port} are filled in. 'vllm serve {model} --port {port} "
        f"--dtype float32 --max-num-seqs {SLOTS}', say",
    )
    parser.add_argument("--vllm-url", help="or where one runs already, with its /v1")
    return parser.parse_args()


if __name__ == "__main__":
    main()
