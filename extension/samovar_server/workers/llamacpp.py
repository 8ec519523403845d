"""The worker process of llama.cpp: `python -m samovar_server.workers.llamacpp`.

xllamacpp is llama.cpp's own server as a library; it answers HTTP from threads of its own, so no byte of an
answer passes through Python.
"""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import urlsplit

from samovar_server.errors import BackendUnavailable, InvalidRequest
from samovar_server.loader.failure import from_words
from samovar_server.loader.spec import Imported, LlamaCppSpec, Progress, Ready, parse_spec
from samovar_server.workers.pipes import Pipe, resident_bytes, watch_stdin

WARNINGS = 2
"""llama.cpp's `verbosity` that leaves out what it tells of each request."""


def main() -> None:
    """Run the worker."""
    pipe = Pipe()
    specs = watch_stdin()
    began = time.monotonic()
    try:
        import xllamacpp
    except ImportError as error:
        pipe.fail(BackendUnavailable(f"xllamacpp cannot be imported here: {error}."))
    imported = time.monotonic() - began
    pipe.send(Imported(imported))
    spec = parse_spec(specs.get(), LlamaCppSpec)
    if spec.device != "cpu" and not _has_gpu(xllamacpp):
        pipe.fail(
            InvalidRequest(
                "device: the installed xllamacpp is a build for CPUs. Install one of its builds for GPUs, or "
                "leave device and n_gpu_layers out.",
                param="device",
            )
        )
    pipe.send(Progress("weights", 0.0))
    began = time.monotonic()
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, spec))
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller waits for the cause
        words = str(error).replace(spec.model_path, spec.model_name)
        pipe.fail(from_words(spec.model_name, words, engine="llama.cpp"))
    seconds = time.monotonic() - began
    port = urlsplit(server.listening_address).port
    assert port is not None
    pipe.send(
        Ready(
            port=port,
            device=spec.device,
            dtype="gguf",
            context_length=spec.context_length,
            memory_bytes=resident_bytes() if spec.device == "cpu" else spec.memory_bytes,
            load_seconds={"import": imported, "weights": seconds},
            slots=spec.slots - spec.reserve,
            reserve=spec.reserve,
        )
    )
    threading.Event().wait()


def _parameters(xllamacpp: Any, spec: LlamaCppSpec) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = spec.model_path
    params.model_alias = {spec.model_name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [spec.secret]
    params.ui = False
    params.verbosity = WARNINGS
    params.n_parallel = spec.slots
    params.n_ctx = spec.slots * spec.context_length
    params.n_gpu_layers = spec.n_gpu_layers
    if spec.device.startswith("cuda:"):
        params.main_gpu = int(spec.device.partition(":")[2])
    params.cache_ram_mib = 0  # llama.cpp would keep up to 8 GB of old prompts beside the estimate
    # llama.cpp has defaults of its own for what a request leaves out; the API says: sample as it is.
    params.sampling.temp = 1.0
    params.sampling.top_k = 0
    params.sampling.top_p = 1.0
    params.sampling.min_p = 0.0
    return params


def _has_gpu(xllamacpp: Any) -> bool:
    devices = xllamacpp.get_device_info()
    return any(device["type"].name.endswith("GPU") for device in devices)


if __name__ == "__main__":
    main()
