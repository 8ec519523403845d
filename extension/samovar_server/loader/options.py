"""What a caller may ask of a load, and what a load tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

Backend = Literal["auto", "transformers", "llamacpp", "vllm", "remote"]
Quantization = Literal["auto", "none", "int8", "int4", "nf4"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoadPhase = Literal["queued", "converting", "starting", "importing", "weights", "warmup", "ready"]
"""In the order in which a load goes through them."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is held in memory. Two loads with equal model and options share one copy.

    `device` is "auto", "cpu", "cuda" or "cuda:N"; `context_length` is in tokens, None meaning the
    model's own window. `quantization` is how the weights of linear layers are held; "auto" is none.
    `memory_bytes` is what the load is to be counted with where the caller knows better than the estimate.
    The rest are options of single engines, in their engine's words: llama.cpp's `n_ctx` (its context
    length) and `n_gpu_layers` (-1: all); vLLM's `max_model_len` (its context length), share of the GPU's
    memory (0.1 to 1) and sizes of the groups of GPUs that hold the model.
    """

    backend: Backend = "auto"
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = "auto"
    context_length: int | None = None
    memory_bytes: int | None = None
    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None

    def asked(self) -> frozenset[str]:
        """The names of the options that ask something of the backend."""
        return frozenset(
            field.name
            for field in fields(self)
            if field.name not in ("backend", "memory_bytes") and getattr(self, field.name) != field.default
        )

    def window(self) -> int | None:
        """The context length that is asked for, in whichever engine's words."""
        return next((n for n in (self.n_ctx, self.max_model_len, self.context_length) if n is not None), None)


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """One step of a load. `fraction` runs from 0 to 1 over the whole load and never falls."""

    phase: LoadPhase
    fraction: float
    bytes_done: int = 0
    bytes_total: int = 0


ProgressCallback = Callable[[LoadProgress], None]
