"""llama.cpp's own server, run by the Python that has xllamacpp: `python llamacpp_server.py --help`.

Alone in its file, as it runs in another environment: it imports nothing of samovar.
"""

from __future__ import annotations

import argparse
import threading

import xllamacpp  # type: ignore[import-not-found]  # of another environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True, help="requests that are decoded together")
    parser.add_argument("--context", type=int, required=True, help="tokens that each of them may have")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = options.parallel
    params.n_ctx = options.parallel * options.context
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    server = xllamacpp.Server(params)  # answers HTTP from threads of its own
    print("listening at", server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
