"""The servers that are compared: how each is started, and how it is asked.

All get the same model with as many threads and, where it can be said, as many requests decoded together.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.client import Endpoint
from tests.benchmarks.processes import NotHereError, free_port, require_modules, serving
from tests.notebooks.jupyter import TOKEN, jupyter

SLOTS = 16
CONTEXT = 2048
"""Tokens for one request; what those are told that reserve the memory."""
BLOCK = 32
"""Tokens in a block of transformers serve's KV cache."""
THREADS = os.cpu_count() or 1
LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class Served:
    """A server that runs. `direct` is samovar's worker without the gateway in front of it, where that is
    measured, too."""

    endpoint: Endpoint
    direct: Endpoint | None = None


@dataclass(frozen=True)
class Server:
    """A server to measure. `start` raises NotHereError where it cannot run.

    One that `lingers` goes on with requests that nobody waits for any more.
    """

    name: str
    start: Callable[[Path], AbstractContextManager[Served]] = field(repr=False)
    lingers: bool = False


def samovar(model: Path, quantization: str, *, speculative: bool = True) -> Server:
    """samovar as its users run it: a Jupyter server, the model in a worker behind it. Without `speculative`
    decoding it computes each token by itself."""

    @contextmanager
    def start(folder: Path) -> Iterator[Served]:
        options = (
            *tell_worker_address(folder),
            f"--Workbench.model_folders={model.parent}",
            f"--Workbench.slots={SLOTS}",
            f"--Workbench.speculative={speculative}",
            "--Workbench.default_ttl=0",  # while others have their turns, too
            "--Workbench.spare_worker=False",  # its import would run beside the measurement
        )
        load = {"model": model.name, "quantization": quantization}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with jupyter(folder, *options) as server:
            with httpx.Client(
                base_url=server.url, headers=headers, timeout=LOAD_SECONDS, trust_env=False
            ) as client:
                loaded = client.post("v1/models/load", json=load)
                if loaded.status_code == httpx.codes.BAD_REQUEST:  # a version without this quantisation
                    raise NotHereError(loaded.json()["error"]["message"])
                loaded.raise_for_status()
                worker = client.post("worker-address", json=load).raise_for_status().json()
            fields = {"quantization": quantization, "ignore_eos": True}
            authorization = {"Authorization": f"Bearer {worker['secret']}"}
            direct = Endpoint(f"{worker['url']}/v1", model.name, authorization, fields)
            through = Endpoint(f"{server.url}v1", model.name, headers, fields)
            yield Served(through, direct if speculative else None)

    name = f"samovar {'fp32' if quantization == 'none' else quantization}"
    return Server(name if speculative else f"{name}, not speculative", start)


def tell_worker_address(folder: Path) -> list[str]:
    """Put the benchmarks' own extension into a server's folder; the options that load it there."""
    shutil.copy(Path(__file__).with_name("worker_address.py"), folder)
    return [f"--ServerApp.jpserver_extensions={name}=True" for name in ("worker_address", "samovar_server")]


def transformers_serve(model: Path, python: Path, *, continuous_batching: bool) -> Server:
    """`transformers serve`, in its default mode or with continuous batching.

    That takes all memory that is left for its KV cache, and the others', unless it is told how much.
    """
    flags = ["--continuous-batching"] if continuous_batching else []
    blocks = ["--cb-block-size", str(BLOCK), "--cb-num-blocks", str(SLOTS * CONTEXT // BLOCK)]

    @contextmanager
    def start(folder: Path) -> Iterator[Served]:
        require_modules(
            python,
            "transformers",
            "fastapi",
            "uvicorn",
            install="'transformers[serving]' torch",
            option="--transformers-python",
        )
        port = free_port()
        command = [python.with_name("transformers"), "serve", model, "--port", str(port), *flags]
        command += blocks if continuous_batching else []
        environment = {"HF_HUB_OFFLINE": "1"}
        with serving(command, f"http://127.0.0.1:{port}/health", folder / "transformers.log", environment):
            yield Served(Endpoint(f"http://127.0.0.1:{port}/v1", str(model)))

    return Server(" ".join(["transformers serve", *flags]), start, lingers=True)


def llamacpp(gguf: Path, python: Path) -> Server:
    """llama.cpp's server, through xllamacpp."""

    @contextmanager
    def start(folder: Path) -> Iterator[Served]:
        require_modules(python, "xllamacpp", install="xllamacpp", option="--llamacpp-python")
        port = free_port()
        command = [
            *(python, Path(__file__).with_name("llamacpp_server.py"), "--model", gguf),
            *("--port", str(port), "--threads", str(THREADS)),
            *("--parallel", str(SLOTS), "--context", str(CONTEXT)),
        ]
        with serving(command, f"http://127.0.0.1:{port}/health", folder / "llamacpp.log"):
            yield Served(Endpoint(f"http://127.0.0.1:{port}/v1", gguf.name, fields={"ignore_eos": True}))

    return Server("llama.cpp Q4_1", start)


def vllm(model: Path, command: str | None, url: str | None) -> Server:
    """vLLM: by the command that starts it ({model} and {port} are filled in), or one that runs already."""
    fields: dict[str, Any] = {"ignore_eos": True}

    @contextmanager
    def start(folder: Path) -> Iterator[Served]:
        if url is not None:
            yield Served(Endpoint(url.rstrip("/"), str(model), fields=fields))
        elif command is not None:
            port = free_port()
            filled = shlex.split(command.format(model=model, port=port))
            with serving(filled, f"http://127.0.0.1:{port}/health", folder / "vllm.log"):
                yield Served(Endpoint(f"http://127.0.0.1:{port}/v1", str(model), fields=fields))
        else:
            raise NotHereError("no environment was given: --vllm-command or --vllm-url")

    return Server("vLLM", start)
