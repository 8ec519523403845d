"""samovar's own engine, over models of the transformers library."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from samovar_server.backends.base import Routes, reserve_within
from samovar_server.backends.conversion import convert
from samovar_server.backends.devices import choose_device, has_cuda_build
from samovar_server.errors import BackendUnavailable, InvalidRequest
from samovar_server.inventory.conversions import conversion_of
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.estimate import (
    DTYPE_BYTES,
    LINEAR_BITS,
    MemoryEstimate,
    ModelShape,
    choose_context,
    estimate,
    read_shape,
    weights_bytes,
)
from samovar_server.loader.gguf import read_header
from samovar_server.loader.options import LoadOptions, ProgressCallback
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.spec import WorkerSpec

# -P: the worker is started in the notebooks' folder, whose files must not stand in for modules.
ENGINE_COMMAND = (sys.executable, "-P", "-m", "samovar_server.engine.worker")
REQUIRED_MODULES = ("torch", "transformers")


class TransformersBackend:
    """Honours device, dtype, quantization and context_length.

    `command` empty means this Python with samovar's engine. Up to `slots` requests of one model are
    decoded together, fewer where memory is short; up to `max_queue` more wait. `speculative` is the
    WorkerSpec's. A model in GGUF is turned into safetensors before its first load, in a folder below
    `conversions`.
    """

    name: ClassVar[str] = "transformers"
    title: ClassVar[str] = "samovar's own engine"
    options: ClassVar[frozenset[str]] = frozenset({"device", "dtype", "quantization", "context_length"})
    routes: ClassVar[Routes] = {
        "/v1/chat/completions": None,
        "/v1/completions": None,
        "/v1/embeddings": None,
        "/v1/tokenize": None,
        "/v1/detokenize": None,
    }
    has_spare: ClassVar[bool] = True
    has_adapters: ClassVar[bool] = True
    environment: Mapping[str, str] = {
        "HF_HUB_OFFLINE": "1",  # a worker loads what is on disk, and fetches nothing
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the numbering of loader/devices.py
    }

    def __init__(
        self,
        *,
        command: Sequence[str] = (),
        slots: int,
        reserve: int = 0,
        max_queue: int,
        speculative: bool = True,
        conversions: Path,
    ) -> None:
        self._is_own = not command
        self.command: Sequence[str] = tuple(command) or ENGINE_COMMAND
        self._slots, self._reserve = slots, reserve
        self._max_queue = max_queue
        self._speculative = speculative
        self._conversions = conversions

    def check(self) -> None:
        """Raise BackendUnavailable when torch or transformers is missing here."""
        if not self._is_own:  # another command brings its own libraries
            return
        missing = [name for name in REQUIRED_MODULES if find_spec(name) is None]
        if missing:
            raise BackendUnavailable(
                f"This server cannot run models: {' and '.join(missing)} not installed. "
                "Run: pip install 'samovar[local]', then restart the server."
            )

    def takes(self, model: ResolvedModel) -> bool:
        """Safetensors, and GGUF that is one file: transformers reads no parts."""
        return len(model.files) <= 1

    def plan(self, model: ResolvedModel, options: LoadOptions, budgets: Mapping[str, int]) -> LoadPlan:
        """See Backend.plan. On a CPU `auto` is float32, on a GPU the checkpoint's half precision."""
        shape = _gguf_shape(model) if model.is_gguf else read_shape(model.path)
        quantization = "none" if options.quantization == "auto" else options.quantization
        # int4 is for CPUs only, so with it `auto` means the CPU.
        asked = "cpu" if quantization == "int4" and options.device == "auto" else options.device
        device = choose_device(asked, budgets, cuda=has_cuda_build())
        dtype = choose_dtype(options.dtype, device, shape.dtype)
        self._check_quantization(quantization, device, dtype)
        memory = fit_slots(
            shape,
            _weights_bytes(model, dtype, quantization),
            loading=_weights_bytes(model, dtype, "none"),
            device=device,
            dtype=dtype,
            context_length=choose_context(shape, options.context_length),
            slots=self._slots + self._reserve,
            budget=budgets[device],
        )
        return LoadPlan(model, options, self.name, device, dtype, quantization, memory)

    async def prepare(self, plan: LoadPlan, report: ProgressCallback) -> None:
        """Turn GGUF into safetensors, unless an earlier load has done it."""
        if plan.model.is_gguf:
            await convert(plan.model, self._conversions, report)

    def _check_quantization(self, quantization: str, device: str, dtype: str) -> None:
        check_quantization(quantization, device, dtype)
        needs_library = quantization == "nf4" or (quantization == "int8" and device != "cpu")
        if needs_library and self._is_own and find_spec("bitsandbytes") is None:
            raise BackendUnavailable(
                f"quantization: {quantization} on {device} needs bitsandbytes, which is not installed. "
                "Run: pip install bitsandbytes, then restart the server."
            )

    def spec(self, plan: LoadPlan, secret: str) -> WorkerSpec:
        """See Backend.spec."""
        return WorkerSpec(
            model_path=str(self._folder(plan.model)),
            model_name=plan.model.name,
            device=plan.device,
            dtype=plan.dtype,
            quantization=plan.quantization,
            context_length=plan.memory.context_length,
            slots=plan.memory.slots,
            max_queue=self._max_queue,
            secret=secret,
            kv_tokens=plan.memory.kv_tokens,
            reserve=reserve_within(plan.memory.slots, self._slots, self._reserve),
            speculative=self._speculative,
        )

    def _folder(self, model: ResolvedModel) -> Path:
        return conversion_of(model.path, self._conversions) if model.is_gguf else model.path


def _gguf_shape(model: ResolvedModel) -> ModelShape:
    header = read_header(model.files)
    return ModelShape(
        dtype="float32",  # of the converted weights
        max_context=header.max_context,
        layers=header.layers,
        kv_width=header.kv_values // (2 * header.layers) if header.layers else 0,
        vocabulary=header.vocabulary,
    )


def _weights_bytes(model: ResolvedModel, dtype: str, quantization: str) -> int:
    if not model.is_gguf:
        return weights_bytes(model.path, dtype, quantization)
    bits = LINEAR_BITS.get(quantization, DTYPE_BYTES[dtype] * 8)
    return int(read_header(model.files).elements * bits / 8)


def choose_dtype(asked: str, device: str, stored: str | None) -> str:
    """The dtype `asked` stands for, `stored` being the one the checkpoint was saved in."""
    if asked != "auto":
        return asked
    if device == "cpu":  # where half precision saves memory but no time, and costs exactness
        return "float32"
    return stored if stored in ("bfloat16", "float16") else "bfloat16"


def check_quantization(quantization: str, device: str, dtype: str) -> None:
    """InvalidRequest for a quantization that does not go with the device or the dtype."""
    if quantization == "none":
        return
    if device != "cpu" and quantization == "int4":
        raise InvalidRequest(
            f"quantization: int4 runs on the CPU only (device is {device}). "
            "Choose nf4 or int8, or device cpu.",
            param="quantization",
        )
    if device == "cpu" and dtype != "float32":
        raise InvalidRequest(
            f"quantization: {quantization} on a CPU computes in float32 (dtype is {dtype}). "
            "Leave dtype out, or choose quantization none.",
            param="quantization",
        )


def fit_slots(
    shape: ModelShape,
    weights: int,
    *,
    loading: int = 0,
    device: str,
    dtype: str,
    context_length: int | None,
    slots: int,
    budget: int,
) -> MemoryEstimate:
    """The estimate with as many slots as fit into `budget`, halving from `slots`; at least one."""
    while True:
        memory = estimate(
            shape,
            weights,
            device=device,
            dtype=dtype,
            context_length=context_length,
            slots=slots,
            loading=loading,
        )
        if memory.total_bytes <= budget or slots == 1:
            return memory
        slots //= 2
