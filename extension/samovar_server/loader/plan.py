"""A load that is decided: the model, and every `auto` of the options made definite."""

from __future__ import annotations

from dataclasses import dataclass, field

from samovar_server.inventory.references import ResolvedModel
from samovar_server.loader.dialect import Dialect
from samovar_server.loader.estimate import MemoryEstimate
from samovar_server.loader.options import LoadOptions

ENGINE_OPTIONS = (
    "n_gpu_layers",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "pipeline_parallel_size",
)
"""Options of single engines that a plan keeps as they were asked for."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What will be loaded and how; `options` is what was asked for, the other fields what that means.

    `reason` says in words why it is this backend. `dialect` is how an engine that is not samovar's own
    wants to be spoken to.
    """

    model: ResolvedModel
    options: LoadOptions
    backend: str
    device: str
    dtype: str
    quantization: str
    memory: MemoryEstimate
    reason: str = ""
    dialect: Dialect | None = field(default=None, repr=False)

    @property
    def identity(self) -> str:
        """Equal for plans that are about the same model; one copy of it is resident at a time."""
        return str(self.model.path)

    @property
    def cache_key(self) -> str:
        """The model and how it is held, for people to read and to tell copies apart."""
        revision = f"@{self.model.revision[:12]}" if self.model.revision else ""
        context = self.memory.context_length or "auto"
        how = [self.backend, self.device, self.dtype, self.quantization, str(context)]
        asked = ((name, getattr(self.options, name)) for name in ENGINE_OPTIONS)
        how += [f"{name}={value}" for name, value in asked if value is not None]
        return f"{self.model.name}{revision}|{'|'.join(how)}"

    def satisfies(self, options: LoadOptions) -> bool:
        """Whether a copy loaded by this plan is what `options` ask for.

        `auto`, and a context length that is left out, ask for nothing: a client that knows only
        OpenAI's fields uses the resident copy however it was loaded.
        """
        return (
            options.backend in ("auto", self.backend)
            and options.device in ("auto", self.device, self.device.partition(":")[0])
            and options.dtype in ("auto", self.dtype)
            and options.quantization in ("auto", self.quantization)
            and options.window() in (None, self.memory.context_length)
            and all(getattr(options, name) in (None, getattr(self.options, name)) for name in ENGINE_OPTIONS)
        )
