"""A loaded model, its engine and its HTTP service, wired together."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from samovar_server.engine import gpu
from samovar_server.engine.adapters import Adapters
from samovar_server.engine.compute import ComputeThread
from samovar_server.engine.core import Delivery, Engine
from samovar_server.engine.cores import shared_cores
from samovar_server.engine.embedding import Embedder
from samovar_server.engine.embedding_card import makes_embeddings
from samovar_server.engine.embeddings import EmbeddingService
from samovar_server.engine.exactness import why_not_exact
from samovar_server.engine.fallback import FallbackRunner
from samovar_server.engine.grammar import Grammars
from samovar_server.engine.graphs import cuda_capture
from samovar_server.engine.loading import load
from samovar_server.engine.routes import application
from samovar_server.engine.runner import ModelRunner, Runner
from samovar_server.engine.service import Service
from samovar_server.engine.vocabulary import Vocabulary
from samovar_server.loader.spec import WorkerSpec
from samovar_server.workers.pipes import resident_bytes

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 100 * 1024 * 1024

ENGINE_FAILED = 70
"""Exit code after a failed step (EX_SOFTWARE): the server then tells the requests and starts afresh."""

Report = Callable[[str, float], None]
"""Called with the phase ("weights" or "warmup") and the fraction of it that is done."""


@dataclass(slots=True)
class Serving:
    """A worker's model, ready to be served. `load_seconds` has the stages "weights" and "warmup"."""

    spec: WorkerSpec
    runner: ModelRunner
    compute: ComputeThread
    tokenizer: object
    context_length: int
    stop_tokens: frozenset[int]
    load_seconds: dict[str, float]
    inexact_because: str | None

    @property
    def device(self) -> str:
        """Where the model is: "cpu" or "cuda:N"."""
        return str(self.runner.device)

    @property
    def dtype(self) -> str:
        """The weights' dtype, as "float32"."""
        return str(self.runner.model.dtype).removeprefix("torch.")

    @property
    def slots(self) -> int:
        """Sequences that are computed together, but those in the reserve."""
        return self.runner.slots - self.reserve

    @property
    def reserve(self) -> int:
        """Further ones, kept for users with nothing running. A runner may have fewer slots than was asked."""
        return min(self.spec.reserve, self.runner.slots - 1)

    @property
    def room(self) -> int | None:
        """Positions that the KV cache may take, as the server counts with; None where it has them already."""
        if self.spec.kv_tokens is None or not isinstance(self.runner, Runner) or self.runner.cache.fixed:
            return None
        return max(self.spec.kv_tokens, self.context_length)

    @property
    def vocabulary_size(self) -> int:
        """Tokens that the model has logits for."""
        size: int = self.runner.model.config.get_text_config().vocab_size
        return size

    def memory_bytes(self) -> int:
        """What the model takes, with what its KV cache is counted with and has not come to take yet."""
        return taken_bytes(self.runner.device) + self.runner.growth_bytes(self.spec.kv_tokens)

    def listen(self) -> int:
        """Start the engine and the service on the running event loop; returns the port."""
        loop = asyncio.get_running_loop()

        def hand_out(outputs: Delivery) -> None:
            for sequence, output in outputs:
                sequence.emit(output)

        def give_up(error: Exception) -> None:
            log.critical("The engine failed and the worker ends: %s", error)
            os._exit(ENGINE_FAILED)

        engine = Engine(
            self.runner,
            self.compute,
            slots=self.runner.slots,
            reserve=self.reserve,
            max_queue=self.spec.max_queue,
            room=self.room,
            # Where bits depend on the company, they would depend on whether a draft was right.
            speculative=self.spec.speculative and self.inexact_because is None and self.runner.resumes,
            cores=shared_cores() if self.runner.device.type == "cpu" else None,
            deliver=lambda outputs: _call_soon(loop, hand_out, outputs),
            on_failure=give_up,
        )
        engine.start()
        decoder = copy.deepcopy(self.tokenizer)
        service = Service(
            engine=engine,
            tokenizer=self.tokenizer,
            decoder=decoder,
            vocabulary=Vocabulary(decoder, self.vocabulary_size),
            model_name=self.spec.model_name,
            context_length=self.context_length,
            stop_tokens=self.stop_tokens,
            secret=self.spec.secret,
            memory_bytes=self.memory_bytes,
            inexact_because=self.inexact_because,
            grammars=Grammars(decoder, self.vocabulary_size, self.stop_tokens),
            adapters=Adapters(self.runner.model) if isinstance(self.runner, Runner) else None,
        )
        return listen(application(service))


@dataclass(slots=True)
class EmbeddingServing:
    """A worker's embedding model, ready to be served."""

    spec: WorkerSpec
    embedder: Embedder
    compute: ComputeThread
    load_seconds: dict[str, float]
    slots: ClassVar[int] = 1
    reserve: ClassVar[int] = 0

    @property
    def device(self) -> str:
        """Where the model is: "cpu" or "cuda:N"."""
        return str(self.embedder.model.device)

    @property
    def dtype(self) -> str:
        """The weights' dtype, as "float32"."""
        return str(self.embedder.model.dtype).removeprefix("torch.")

    @property
    def context_length(self) -> int:
        """The longest input, in tokens."""
        return self.embedder.context_length

    def memory_bytes(self) -> int:
        """What the model takes."""
        return taken_bytes(self.embedder.model.device)

    def listen(self) -> int:
        """Start the service on the running event loop; returns the port."""
        service = EmbeddingService(self.embedder, self.spec.model_name, self.spec.secret, self.compute)
        return listen(service.application())


def taken_bytes(device: torch.device) -> int:
    """What this process takes of the memory that a model on `device` is in."""
    return gpu.taken_bytes(device) if device.type == "cuda" else resident_bytes()


def listen(application: web.Application) -> int:
    """Serve `application` on a port of its own, for this machine only; returns the port."""
    (socket,) = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(application, max_buffer_size=MAX_BODY_BYTES)
    server.add_sockets([socket])
    port: int = socket.getsockname()[1]
    return port


def prepare(spec: WorkerSpec, report: Report) -> Serving | EmbeddingServing:
    """Load the model of `spec` and run it once. LoadFailed or InvalidRequest says why not.

    `report` is called on the compute thread, where all of it is done.
    """
    compute = ComputeThread()
    compute.call(gpu.settle_on, torch.device(spec.device)).result()
    if makes_embeddings(Path(spec.model_path)):
        return compute.call(prepare_embeddings, spec, report, compute).result()
    return compute.call(prepare_generating, spec, report, compute).result()


def prepare_generating(spec: WorkerSpec, report: Report, compute: ComputeThread) -> Serving:
    """As `prepare`, for a model that generates."""
    loaded = load(spec, lambda fraction: report("weights", fraction))
    report("warmup", 0.0)
    began = time.monotonic()
    runner: ModelRunner
    if loaded.in_slots:
        device = loaded.model.device
        capture = cuda_capture(device) if device.type == "cuda" else None
        runner = Runner(loaded.model, spec.slots, loaded.context_length, capture=capture)
    else:
        runner = FallbackRunner(loaded.model, loaded.context_length)
    # The first run of each kind sets up kernels and buffers; a user's first token need not wait for it.
    token = next(iter(loaded.stop_tokens), 0)
    runner.prefill(0, [token] * 2, 0)
    runner.decode([0], [token], [2])
    # Who runs alone has no neighbours that could change a bit.
    inexact = None
    if isinstance(runner, Runner):
        inexact = why_not_exact(loaded.model)
    if inexact is not None:
        log.info("%s is not exact in company, because %s", spec.model_name, inexact)
    gpu.give_back(runner.device)
    seconds = {"weights": loaded.seconds, "warmup": time.monotonic() - began}
    report("warmup", 1.0)
    return Serving(
        spec, runner, compute, loaded.tokenizer, loaded.context_length, loaded.stop_tokens, seconds, inexact
    )


def prepare_embeddings(spec: WorkerSpec, report: Report, compute: ComputeThread) -> EmbeddingServing:
    """As `prepare`, for a model whose card says how it makes vectors."""
    embedder = Embedder.load(spec)
    report("warmup", 0.0)
    began = time.monotonic()
    embedder.embed([0, 0])
    gpu.give_back(embedder.model.device)
    report("warmup", 1.0)
    seconds = {"weights": embedder.seconds, "warmup": time.monotonic() - began}
    return EmbeddingServing(spec, embedder, compute, seconds)


def _call_soon(
    loop: asyncio.AbstractEventLoop, function: Callable[[Delivery], None], outputs: Delivery
) -> None:
    loop.call_soon_threadsafe(function, outputs)
