"""vLLM, which lives in an environment of its own: the command that the settings name, on a private port."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from samovar_server.backends.base import CHAT, COMPLETIONS, EMBEDDINGS, Routes
from samovar_server.backends.devices import choose_device
from samovar_server.errors import BackendUnavailable
from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.devices import Memory
from samovar_server.loader.dialect import SALT, Dialect
from samovar_server.loader.estimate import (
    MIB,
    PROCESS_BYTES,
    MemoryEstimate,
    choose_context,
    read_shape,
    weights_bytes,
)
from samovar_server.loader.options import LoadOptions, ProgressCallback
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.spec import CommandSpec

COMMAND = (sys.executable, "-P", "-m", "samovar_server.workers.command")
UTILIZATION = 0.9
"""Share of a GPU's memory that vLLM takes for itself, whatever the model, when nobody says."""
LEAST_UTILIZATION = 0.1
CPU_CACHE_GIB = 4
"""For keys and values on a CPU; vLLM's own default."""


class VllmBackend:
    """Honours dtype, context_length (or max_model_len) and vLLM's own options.

    `command` starts vLLM, as ["/opt/vllm/bin/vllm"]; empty: there is none. `arguments` are added to what
    samovar says. `memory` tells the memory of each device. A model over several GPUs is counted on one of
    them; what the others and other machines hold is vLLM's business (and Ray's, which it uses where there
    are not enough GPUs here).
    """

    name: ClassVar[str] = "vllm"
    title: ClassVar[str] = "vLLM"
    options: ClassVar[frozenset[str]] = frozenset(
        {
            "context_length",
            "device",
            "dtype",
            "gpu_memory_utilization",
            "max_model_len",
            "pipeline_parallel_size",
            "tensor_parallel_size",
        }
    )
    routes: ClassVar[Routes] = {
        "/v1/chat/completions": CHAT,
        "/v1/completions": COMPLETIONS - {"best_of"},
        "/v1/embeddings": EMBEDDINGS,
    }
    has_spare: ClassVar[bool] = False
    has_adapters: ClassVar[bool] = False
    environment: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    command: Sequence[str] = COMMAND

    def __init__(
        self, command: Sequence[str], arguments: Sequence[str], memory: Callable[[], Mapping[str, Memory]]
    ) -> None:
        self._vllm = tuple(command)
        self._arguments = tuple(arguments)
        self._memory = memory

    def check(self) -> None:
        """Raise BackendUnavailable when no command is set."""
        if not self._vllm:
            raise BackendUnavailable(
                "vLLM is not set up here. Install it into an environment of its own and set "
                'c.Workbench.vllm_command = ["/path/to/vllm"].'
            )

    def takes(self, model: ResolvedModel) -> bool:
        """Safetensors only."""
        return not model.is_gguf

    def plan(self, model: ResolvedModel, options: LoadOptions, budgets: Mapping[str, int]) -> LoadPlan:
        """See Backend.plan. On a GPU vLLM takes a share of the memory, not what the model needs."""
        shape = read_shape(model.path)
        context = options.window()
        choose_context(shape, context)
        device = choose_device(options.device, budgets, cuda=True)
        weights = weights_bytes(model.path, "bfloat16" if options.dtype == "auto" else options.dtype)
        if device == "cpu":
            rest = PROCESS_BYTES["cpu"] + CPU_CACHE_GIB * 1024 * MIB
        else:
            share = options.gpu_memory_utilization or self._utilization(device, budgets[device])
            rest = max(int(self._memory()[device].total_bytes * share) - weights, 0)
        memory = MemoryEstimate(
            weights_bytes=weights, kv_bytes_per_token=0, context_length=context, slots=1, overhead_bytes=rest
        )
        dialect = Dialect(self.title, model.name, isolating={"cache_salt": SALT})
        return LoadPlan(model, options, self.name, device, options.dtype, "none", memory, dialect=dialect)

    async def prepare(self, plan: LoadPlan, report: ProgressCallback) -> None:
        """Nothing: vLLM loads the folder as it is."""

    def spec(self, plan: LoadPlan, secret: str) -> CommandSpec:
        """See Backend.spec."""
        return CommandSpec(
            model_name=plan.model.name,
            arguments=[*self._vllm, "serve", str(plan.model.path), *self._flags(plan), *self._arguments],
            environment=self._variables(plan),
            key_variable="VLLM_API_KEY",  # and not its option: a process list shows those
            device=plan.device,
            dtype=plan.dtype,
            context_length=plan.memory.context_length,
            memory_bytes=plan.memory.total_bytes,
            secret=secret,
        )

    def _flags(self, plan: LoadPlan) -> list[str]:
        options = plan.options
        tensor, pipeline = options.tensor_parallel_size or 1, options.pipeline_parallel_size or 1
        flags = {
            "--host": "127.0.0.1",
            "--port": "{port}",
            "--served-model-name": plan.model.name,
            "--dtype": options.dtype,
        }
        if plan.memory.context_length is not None:
            flags["--max-model-len"] = str(plan.memory.context_length)
        if plan.device != "cpu":
            flags["--gpu-memory-utilization"] = f"{self._share_of(plan):g}"
        if tensor > 1:
            flags["--tensor-parallel-size"] = str(tensor)
        if pipeline > 1:
            flags["--pipeline-parallel-size"] = str(pipeline)
        if tensor * pipeline > max(len(self._memory()) - 1, 1):
            flags["--distributed-executor-backend"] = "ray"
        return [word for flag in flags.items() for word in flag]

    def _variables(self, plan: LoadPlan) -> dict[str, str]:
        if plan.device == "cpu":
            return {"VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GIB)}
        many = (plan.options.tensor_parallel_size or 1) * (plan.options.pipeline_parallel_size or 1) > 1
        return {} if many else {"CUDA_VISIBLE_DEVICES": plan.device.partition(":")[2]}

    def _share_of(self, plan: LoadPlan) -> float:
        if plan.options.gpu_memory_utilization is not None:
            return plan.options.gpu_memory_utilization
        return round(plan.memory.total_bytes / self._memory()[plan.device].total_bytes, 2)

    def _utilization(self, device: str, budget: int) -> float:
        """The usual share, or what the budget for models allows; in hundredths, rounded down."""
        allowed = int(budget / self._memory()[device].total_bytes * 100) / 100
        return max(min(UTILIZATION, allowed), LEAST_UTILIZATION)
