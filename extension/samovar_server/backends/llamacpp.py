"""llama.cpp, over models in GGUF: xllamacpp's server in a worker process."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import ClassVar

from samovar_server.backends.base import Routes, reserve_within
from samovar_server.backends.devices import choose_device
from samovar_server.errors import BackendUnavailable, InvalidRequest
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.dialect import Dialect
from samovar_server.loader.estimate import MIB, MemoryEstimate
from samovar_server.loader.gguf import GgufHeader, read_header
from samovar_server.loader.options import LoadOptions, ProgressCallback
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.spec import LlamaCppSpec

COMMAND = (sys.executable, "-P", "-m", "samovar_server.workers.llamacpp")
DEFAULT_CONTEXT = 4096
"""Tokens, for a file that does not say how many its model was made for."""

KV_BYTES = 2
"""Of a number in the KV cache, which llama.cpp keeps in 16 bits."""
PROCESS_BYTES = 256 * MIB
"""Python with llama.cpp, and its buffers for the numbers between layers."""
LOGIT_ROWS = 512
"""Of the vocabulary's width in 32 bits: llama.cpp's batch for a prompt."""

_SAMPLING = {
    "ignore_eos", "logit_bias", "max_tokens", "min_p", "n", "seed", "stop", "temperature", "top_k", "top_p"
}  # fmt: skip


class LlamaCppBackend:
    """Honours device, context_length (or n_ctx) and n_gpu_layers.

    What it leaves out it would do by other rules than the API's: penalties count the prompt too, tools
    depend on what llama.cpp makes of the model's template, and completions' logprobs have another shape.
    """

    name: ClassVar[str] = "llamacpp"
    title: ClassVar[str] = "llama.cpp"
    options: ClassVar[frozenset[str]] = frozenset({"device", "context_length", "n_ctx", "n_gpu_layers"})
    routes: ClassVar[Routes] = {
        "/v1/chat/completions": frozenset(
            _SAMPLING | {"messages", "max_completion_tokens", "logprobs", "top_logprobs", "response_format"}
        ),
        "/v1/completions": frozenset(_SAMPLING | {"prompt"}),
    }
    has_spare: ClassVar[bool] = False
    has_adapters: ClassVar[bool] = False
    environment: Mapping[str, str] = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    command: Sequence[str] = COMMAND

    def __init__(self, *, slots: int, reserve: int = 0) -> None:
        self._slots, self._reserve = slots, reserve

    def check(self) -> None:
        """Raise BackendUnavailable when xllamacpp is missing here."""
        if find_spec("xllamacpp") is None:
            raise BackendUnavailable(
                "This server cannot run llama.cpp: xllamacpp is not installed. "
                "Run: pip install 'samovar[llamacpp]', then restart the server."
            )

    def takes(self, model: ResolvedModel) -> bool:
        """GGUF only."""
        return model.is_gguf

    def plan(self, model: ResolvedModel, options: LoadOptions, budgets: Mapping[str, int]) -> LoadPlan:
        """See Backend.plan. `auto` is the CPU unless layers for a GPU are asked for."""
        header = read_header(model.files)
        context = _context(header, options)
        on_gpu = options.n_gpu_layers not in (None, 0)
        asked = "cuda" if options.device == "auto" and on_gpu else options.device
        device = "cpu" if asked == "auto" else choose_device(asked, budgets, cuda=True)
        if device == "cpu" and on_gpu:
            raise InvalidRequest(
                "n_gpu_layers: device cpu leaves no layer for a GPU. Leave one of the two out.",
                param="n_gpu_layers",
            )
        memory = self._fit(header, model, context, _share(header, options, device), budgets[device])
        quantization = model.name.rpartition(":")[2] or "none"
        dialect = Dialect(self.title, isolating={"cache_prompt": False})
        return LoadPlan(model, options, self.name, device, "gguf", quantization, memory, dialect=dialect)

    async def prepare(self, plan: LoadPlan, report: ProgressCallback) -> None:
        """Nothing: llama.cpp loads the file as it is."""

    def spec(self, plan: LoadPlan, secret: str) -> LlamaCppSpec:
        """See Backend.spec."""
        assert plan.memory.context_length is not None
        layers = plan.options.n_gpu_layers
        return LlamaCppSpec(
            model_path=str(plan.model.path),
            model_name=plan.model.name,
            device=plan.device,
            context_length=plan.memory.context_length,
            slots=plan.memory.slots,
            n_gpu_layers=0 if plan.device == "cpu" else -1 if layers is None else layers,
            memory_bytes=plan.memory.total_bytes,
            secret=secret,
            reserve=reserve_within(plan.memory.slots, self._slots, self._reserve),
        )

    def _fit(
        self, header: GgufHeader, model: ResolvedModel, context: int, share: float, budget: int
    ) -> MemoryEstimate:
        """The estimate of the `share` that lies on the device; with fewer slots where memory is short."""
        weights = sum(file.stat().st_size for file in model.files)
        slots = self._slots + self._reserve
        while True:
            memory = MemoryEstimate(
                weights_bytes=int(weights * share),
                kv_bytes_per_token=int(header.kv_values * KV_BYTES * share),
                context_length=context,
                slots=slots,
                overhead_bytes=PROCESS_BYTES + LOGIT_ROWS * header.vocabulary * 4,
            )
            if memory.total_bytes <= budget or slots == 1:
                return memory
            slots //= 2


def _context(header: GgufHeader, options: LoadOptions) -> int:
    asked = options.window()
    if asked is not None and header.max_context is not None and asked > header.max_context:
        name = "n_ctx" if options.n_ctx is not None else "context_length"
        raise InvalidRequest(
            f"{name}: this model's window has {header.max_context} tokens (got {asked}). "
            "Ask for that many or fewer, or leave it out.",
            param=name,
        )
    return asked or header.max_context or DEFAULT_CONTEXT


def _share(header: GgufHeader, options: LoadOptions, device: str) -> float:
    """How much of the model lies on `device`: on a GPU the layers that were asked for, and the output."""
    layers = options.n_gpu_layers
    if device == "cpu" or layers is None or layers < 0 or not header.layers:
        return 1.0
    return min(layers / (header.layers + 1), 1.0)
