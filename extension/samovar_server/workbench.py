"""The parts of the machine room, built once; the extension (and later the Hub service) hosts it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jupyter_core.paths import jupyter_data_dir
from traitlets import Bool, Dict, Float, Int, List, Unicode, default
from traitlets.config import LoggingConfigurable

from samovar_server.cache.records import CacheStats, LoadedModel
from samovar_server.errors import BackendUnavailable, SamovarError
from samovar_server.loader.options import LoadOptions, ProgressCallback


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One line of GET /v1/models. `created` is Unix seconds; `path` is None when only resident."""

    id: str
    created: int
    owned_by: str
    path: str | None
    loaded: bool


@dataclass
class Lease:
    """The right to send one request to a model's worker; the model stays in memory while it is held."""

    url: str
    secret: str
    model: LoadedModel

    def failure(self) -> SamovarError:
        """After the connection to the worker broke: why, as the error to answer with."""
        raise NotImplementedError


class Workbench(LoggingConfigurable):
    """Everything between the routes and the workers."""

    default_model = Unicode("demo", help="The model of a request that names none.").tag(config=True)
    model_folders = List(Unicode(), help="Folders whose subfolders are models.").tag(config=True)
    aliases = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        default_value={"demo": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        help="Short names of models.",
    ).tag(config=True)
    default_ttl = Float(300.0, help="Seconds an unused model stays in memory; 0: for ever.").tag(config=True)
    cpu_memory_budget = Int(0, help="Bytes that models may take of main memory; 0: automatic.").tag(config=True)
    slots = Int(16, help="Requests of one model that are decoded together.").tag(config=True)
    max_queue = Int(256, help="Requests of one model that may wait for a slot.").tag(config=True)
    spare_worker = Bool(True, help="Keep a worker with the libraries imported at hand.").tag(config=True)
    worker_command = List(
        Unicode(), help="Command that starts a worker; empty: this Python with samovar's engine."
    ).tag(config=True)

    @default("model_folders")
    def _default_model_folders(self) -> list[str]:
        return [str(Path(jupyter_data_dir()) / "samovar" / "models")]

    async def start(self) -> None:
        """Begin to serve; the spare worker is started in the background."""

    async def stop(self) -> None:
        """End all workers and await their exit. May be called twice."""

    def models(self) -> list[ModelCard]:
        """The models on disk and in memory."""
        return []

    def acquire(
        self,
        model: str | None,
        options: LoadOptions,
        *,
        ttl: float | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold `model` (None: the default one) in memory for one request, loading it first if needed."""
        return self._acquire()

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[Lease]:
        yield Lease("", "", await self.load(None, LoadOptions()))

    async def load(
        self,
        model: str | None,
        options: LoadOptions,
        *,
        ttl: float | None = None,
        pin: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> LoadedModel:
        """Bring `model` into memory; joins a load that is under way."""
        raise BackendUnavailable("No engine is installed here. Run: pip install 'samovar[local]'")

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, those that are being loaded, and those whose last load failed."""
        return []

    def stats(self) -> CacheStats:
        """Counters since the server started, and the memory of each device."""
        return CacheStats(0, 0, 0, 0, 0, 0.0, 0, 0.0, 0.0, [])

    async def unload(
        self,
        model: str,
        *,
        backend: str | None = None,
        device: str | None = None,
        mode: Literal["drain", "now"] = "drain",
    ) -> list[LoadedModel]:
        """Free the memory of `model`; `drain` lets its running requests end first."""
        return []

    async def unload_all(self, *, mode: Literal["drain", "now"] = "drain") -> list[LoadedModel]:
        """Free the memory of every model."""
        return []
