"""What a caller may ask of a load, and what a load tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Backend = Literal["auto", "transformers"]
Quantization = Literal["auto", "none", "int8", "int4", "nf4"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoadPhase = Literal["queued", "starting", "importing", "weights", "warmup", "ready"]
"""In the order in which a load goes through them."""

BACKENDS: tuple[Backend, ...] = ("auto", "transformers")
QUANTIZATIONS: tuple[Quantization, ...] = ("auto", "none", "int8", "int4", "nf4")
DTYPES: tuple[Dtype, ...] = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is held in memory. Two loads with equal model and options share one copy.

    `device` is "auto", "cpu", "cuda" or "cuda:N"; `context_length` is in tokens, None meaning the
    model's own window. `quantization` is how the weights of linear layers are held; "auto" is none.
    """

    backend: Backend = "auto"
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = "auto"
    context_length: int | None = None


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """One step of a load. `fraction` runs from 0 to 1 over the whole load and never falls."""

    phase: LoadPhase
    fraction: float
    bytes_done: int = 0
    bytes_total: int = 0


ProgressCallback = Callable[[LoadProgress], None]
