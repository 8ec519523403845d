"""samovar's own engine, over models of the transformers library."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from samovar_server.errors import BackendUnavailable, InvalidRequest
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.estimate import (
    MemoryEstimate,
    ModelShape,
    choose_context,
    estimate,
    read_shape,
    weights_bytes,
)
from samovar_server.loader.options import LoadOptions
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.spec import WorkerSpec

# -P: the worker is started in the notebooks' folder, whose files must not stand in for modules.
ENGINE_COMMAND = (sys.executable, "-P", "-m", "samovar_server.engine.worker")
REQUIRED_MODULES = ("torch", "transformers")


class TransformersBackend:
    """Honours device, dtype, quantization and context_length.

    `command` empty means this Python with samovar's engine. Up to `slots` requests of one model are
    decoded together, fewer where memory is short; up to `max_queue` more wait.
    """

    name: ClassVar[str] = "transformers"
    environment: Mapping[str, str] = {
        "HF_HUB_OFFLINE": "1",  # a worker loads what is on disk, and fetches nothing
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the numbering of loader/devices.py
    }

    def __init__(self, *, command: Sequence[str] = (), slots: int, max_queue: int) -> None:
        self._is_own = not command
        self.command: Sequence[str] = tuple(command) or ENGINE_COMMAND
        self._slots = slots
        self._max_queue = max_queue

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

    def plan(self, model: ResolvedModel, options: LoadOptions, budgets: Mapping[str, int]) -> LoadPlan:
        """See Backend.plan. On a CPU `auto` is float32, on a GPU the checkpoint's half precision."""
        shape = read_shape(model.path)
        quantization = "none" if options.quantization == "auto" else options.quantization
        # int4 is for CPUs only, so with it `auto` means the CPU.
        asked = "cpu" if quantization == "int4" and options.device == "auto" else options.device
        device = choose_device(asked, budgets, cuda=has_cuda_build())
        dtype = choose_dtype(options.dtype, device, shape.dtype)
        self._check_quantization(quantization, device, dtype)
        memory = fit_slots(
            shape,
            weights_bytes(model.path, dtype, quantization),
            loading=weights_bytes(model.path, dtype),
            device=device,
            dtype=dtype,
            context_length=choose_context(shape, options.context_length),
            slots=self._slots,
            budget=budgets[device],
        )
        return LoadPlan(model, options, self.name, device, dtype, quantization, memory)

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
            model_path=str(plan.model.path),
            model_name=plan.model.name,
            device=plan.device,
            dtype=plan.dtype,
            quantization=plan.quantization,
            context_length=plan.memory.context_length,
            slots=plan.memory.slots,
            max_queue=self._max_queue,
            secret=secret,
        )


def choose_device(asked: str, budgets: Mapping[str, int], *, cuda: bool) -> str:
    """The device `asked` stands for: `auto` prefers a GPU, `cuda` takes the GPU with the most room.

    `cuda` False means that the installed torch has no CUDA in it. InvalidRequest when there is no
    such device.
    """
    gpus = [device for device in budgets if device != "cpu"] if cuda else []
    if asked == "cpu" or (asked == "auto" and not gpus):
        return "cpu"
    if asked in ("auto", "cuda") and gpus:
        return max(gpus, key=lambda device: budgets[device])
    if asked in gpus:
        return asked
    has = ", ".join(["cpu", *gpus])
    why = "" if cuda else " (the installed torch is a build for CPUs)"
    raise InvalidRequest(
        f"device: there is no {asked!r} here{why}. Choose one of: auto, {has}.", param="device"
    )


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


def has_cuda_build() -> bool:
    """Whether the installed torch can use NVIDIA GPUs, told from its files without importing it."""
    torch = find_spec("torch")
    folders = torch.submodule_search_locations if torch is not None else None
    return any((Path(folder) / "lib" / "libtorch_cuda.so").exists() for folder in folders or ())
