"""samovar and its peers under the same loads on this machine, in one go.

    python -m tests.benchmarks.serving

starts one server after the other, warms it up, loads it, and writes docs/benchmarks/. Servers whose
environment is not here are skipped, loudly, and named in the report. The machine should have nothing else
to do. `--quick` tries everything out in a minute or two and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
from jupyter_core.paths import jupyter_data_dir

from tests.benchmarks.client import Endpoint, http_client, run
from tests.benchmarks.measures import Row, summarise
from tests.benchmarks.own import gateway, long_arrival
from tests.benchmarks.processes import NotHereError
from tests.benchmarks.report import cells, gateway_rows, write_report
from tests.benchmarks.results import SERVING, Serving, machine, versions, write
from tests.benchmarks.scenarios import Scenario, gateway_loads, scenarios
from tests.benchmarks.servers import SLOTS, Served, Server, llamacpp, samovar, transformers_serve, vllm

WARM_UP = Scenario("warm-up", 2, 60, 8)
WARM_UP_SECONDS = 120.0


def main() -> None:
    options = parse()
    found = Serving(machine(), versions())
    loads = scenarios(options.quick)
    with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder:
        for number, server in enumerate(servers(options)):
            if options.only and not any(name in server.name for name in options.only):
                continue
            print(f"\n{server.name}", flush=True)
            own = Path(folder, str(number))
            own.mkdir()
            try:
                measure(server, own, loads, found, options)
            except NotHereError as reason:
                print(f"  SKIPPED: {reason}", flush=True)
                found.skipped[server.name] = str(reason).rstrip(".")
    if not options.quick:
        write(SERVING, found)
        write_report()


def measure(
    server: Server, folder: Path, loads: Sequence[Scenario], found: Serving, options: argparse.Namespace
) -> None:
    """All loads on one server, and on samovar its own measurements.

    After a load that was cut off the server is started anew: some go on with what nobody waits for any more.
    """
    left = list(loads)
    while left:
        with server.start(folder) as served:
            asyncio.run(measure_until_cut_off(server.name, served, left, found, options))


async def measure_until_cut_off(
    name: str, served: Served, left: list[Scenario], found: Serving, options: argparse.Namespace
) -> None:
    """Take loads from `left` until it is empty or one was cut off."""
    async with http_client() as client:
        await run(client, served.endpoint, WARM_UP.prompts(name), WARM_UP.max_tokens, WARM_UP_SECONDS)
        while left:
            row = await measure_load(client, name, served, left.pop(0), options.limit)
            found.rows.append(row)
            if left and row.finished < row.clients:
                return
        if served.direct is not None:
            await measure_own(client, name, served.endpoint, served.direct, found, quick=options.quick)


async def measure_own(
    client: httpx.AsyncClient, name: str, through: Endpoint, direct: Endpoint, found: Serving, *, quick: bool
) -> None:
    """What only samovar is asked."""
    long_tokens, settle = (300, 8) if quick else (4000, 40)
    found.long_arrival[name] = long = await long_arrival(
        client, through, long_tokens=long_tokens, settle=settle
    )
    print(f"  long prompt while streams run: ITL p95 {long.stretch:.2f} times as long", flush=True)
    loads, rounds = gateway_loads(quick), 2 if quick else 8
    found.gateway[name] = both = await gateway(client, through, direct, loads=loads, rounds=rounds)
    for row in gateway_rows(name, both):
        print(f"  gateway: {', '.join(row[1:])}", flush=True)


async def measure_load(
    client: httpx.AsyncClient, name: str, served: Served, load: Scenario, limit: float
) -> Row:
    measured = await run(client, served.endpoint, load.prompts("measured"), load.max_tokens, limit)
    row = summarise(name, load, measured)
    _, speed, first, gap, _ = cells(row)
    print(f"  {load.name:28} {speed:>6} tok/s   TTFT {first} ms   ITL {gap} ms", flush=True)
    return row


def servers(options: argparse.Namespace) -> list[Server]:
    model = options.model or pull("demo")
    gguf = options.gguf or next(pull("demo:Q4_1").glob("*.gguf"))
    return [
        samovar(model, "none"),
        samovar(model, "int4"),
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
        help="starts vLLM; {model} and {port} are filled in: 'vllm serve {model} --port {port} --dtype float32 "
        f"--max-num-seqs {SLOTS}', say",
    )
    parser.add_argument("--vllm-url", help="or where one runs already, with its /v1")
    return parser.parse_args()


if __name__ == "__main__":
    main()
