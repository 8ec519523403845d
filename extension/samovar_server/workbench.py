"""The parts of the machine room, built once; the extension (and later the Hub service) hosts it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.paths import jupyter_data_dir
from traitlets import Bool, Bunch, Dict, Float, Int, List, TraitError, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from samovar_server.backends.base import refuse_adapter, refuse_fields
from samovar_server.backends.llamacpp import LlamaCppBackend
from samovar_server.backends.registry import Backends
from samovar_server.backends.remote import RemoteBackend, RemoteModel, parse_remotes
from samovar_server.backends.transformers import TransformersBackend
from samovar_server.backends.vllm import VllmBackend
from samovar_server.cache.clock import SystemClock
from samovar_server.cache.entry import Entry
from samovar_server.cache.lease import Lease
from samovar_server.cache.manager import Mode, ModelCache
from samovar_server.cache.records import (
    CacheStats,
    EngineStats,
    LoadedModel,
    LoadEstimate,
    ModelChange,
    QueueLength,
    TokensCounted,
    WorkerAddress,
)
from samovar_server.cache.telling import Told
from samovar_server.callers import Caller
from samovar_server.diagnosis import Diagnosis, folder_state
from samovar_server.downloader.desk import DownloadDesk, launcher
from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.jobs import Downloads
from samovar_server.downloader.store import JobStore
from samovar_server.errors import BackendUnavailable, HubUnavailable, ModelNotFound, SamovarError
from samovar_server.events import EventBus
from samovar_server.inventory.adapters import PLUS, OnDiskAdapter, list_adapters, split_adapter
from samovar_server.inventory.cleaning import Cleaning
from samovar_server.inventory.gguf_names import tag_of
from samovar_server.inventory.references import ResolvedModel, list_models, parse_reference, resolve
from samovar_server.loader.devices import NvidiaGpus
from samovar_server.loader.estimate import PROCESS_BYTES
from samovar_server.loader.loader import Loader
from samovar_server.loader.machine import Machine
from samovar_server.loader.options import LoadOptions, ProgressCallback
from samovar_server.loader.plan import LoadPlan
from samovar_server.metrics import CacheCollector, DownloadCollector, count_change, count_tokens
from samovar_server.protocol.adapters import AdapterFolder
from samovar_server.request_log import request_log
from samovar_server.sharing import Demand, Sharing
from samovar_server.shelf import Inventory, Shelf
from samovar_server.usage.meter import Meter

if TYPE_CHECKING:
    from samovar_server.downloader.search import FoundModel

NOT_ON_THE_HUB = frozenset(
    {
        "incomplete",
        "no_files",
        "no_safetensors",
        "no_such_quantization",
        "quantization_needed",
        "repo_not_found",
        "revision_not_found",
    }
)
"""The Hub could be asked, and has no model by this name."""

GPU_NAME = re.compile(r"cuda(:\d{1,3})?")

__all__ = ["CacheStats", "Lease", "LoadedModel", "ModelCard", "Workbench"]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One line of GET /v1/models. `created` is Unix seconds; `path` is the model's folder."""

    id: str
    created: int
    owned_by: str
    path: str
    loaded: bool


class Workbench(LoggingConfigurable):
    """Everything between the routes and the workers. Settings are read when it is made."""

    default_model = Unicode("demo", help="The model that a request means which names none.").tag(config=True)

    model_folders = List(
        Unicode(),
        help="""
        Folders that hold models, each in a folder of its own (`name` or `org/name`). They are searched
        in this order, before the Hugging Face cache. Default: samovar/models in Jupyter's data folder.
        """,
    ).tag(config=True)

    aliases = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        default_value={
            "demo": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "demo:Q4_1": "SmolLM2-135M-Instruct-GGUF:Q4_1",
        },
        help="Short names for models: what a request may say, and the model that it means.",
    ).tag(config=True)

    vllm_command = List(
        Unicode(),
        help="""
        The command of vLLM, which wants an environment of its own: ["/path/to/vllm"]. It then loads what
        asks for backend vllm, and models that are too large for samovar's own engine. Default: none.
        """,
    ).tag(config=True)

    vllm_arguments = List(
        Unicode(), help='What else to tell vLLM, such as ["--enable-auto-tool-choice"].'
    ).tag(config=True)

    remotes = Dict(
        value_trait=Dict(),
        key_trait=Unicode(),
        help="""
        Other servers that speak OpenAI's HTTP, by the name that goes before those of their models:
        {"lab": {"url": "https://host/v1", "key_variable": "LAB_KEY", "timeout": 600}}. `key_variable` is
        the environment variable with the key, `timeout` the longest silence in seconds; both may be left
        out.
        """,
    ).tag(config=True)

    default_ttl = Float(
        300.0,
        min=-1.0,
        help="""
        Seconds that an unused model stays in memory, unless a request says otherwise. 0: for ever; -1: it
        is unloaded as soon as nobody uses it.
        """,
    ).tag(config=True)

    preload = List(
        Unicode(),
        help="Models to load when the server starts, one after the other. They leave as others do.",
    ).tag(config=True)

    pins = List(
        Unicode(),
        help="Models that, once they are loaded, are neither evicted nor expire, until they are unloaded.",
    ).tag(config=True)

    cpu_memory_budget = Int(
        0,
        min=0,
        help="""
        Bytes of main memory that all models together may take. 0: four fifths of the memory that this
        machine or container has, and no more than what other programs leave.
        """,
    ).tag(config=True)

    gpu_memory_budgets = Dict(
        value_trait=Int(min=0),
        key_trait=Unicode(),
        help="""
        Bytes of GPU memory that all models together may take, by GPU: {"cuda:0": 8000000000}; "cuda"
        stands for all GPUs that are not named. Default: nine tenths of each GPU, and no more than what
        other programs leave.
        """,
    ).tag(config=True)

    slots = Int(
        16,
        min=1,
        help="Requests that one model answers at the same time; fewer where memory does not allow it.",
    ).tag(config=True)

    max_queue = Int(
        256,
        min=0,
        help="Requests of one user that may wait for a model's slots; one beyond that is refused with 429.",
    ).tag(config=True)

    shared = Bool(False, help="Whether this is the service of many people. Not a setting.")

    max_body_bytes = Int(
        32 * 1024**2, min=1, help="Largest request body that a /v1 route accepts, in bytes."
    ).tag(config=True)

    load_timeout = Float(
        600.0, min=1.0, help="Seconds that a load may take before it is given up as hung."
    ).tag(config=True)

    hang_timeout = Float(
        60.0,
        min=1.0,
        help="""
        Seconds for which a worker with requests may leave the server's questions unanswered before it is
        ended as hung. One that answers and makes no step is given ten times as long.
        """,
    ).tag(config=True)

    speculative = Bool(
        True,
        help="""
        Let samovar's own engine compute tokens ahead of their time: what followed the last tokens earlier in
        the text is checked together with them. Answers come sooner and are the same to the last bit; a model
        for which that cannot be promised is run without. False if times of single steps are what you measure.
        """,
    ).tag(config=True)

    spare_worker = Bool(
        True,
        help="""
        Keep one worker process waiting that has its libraries imported, so that a load takes seconds
        less. It takes a few hundred megabytes of main memory.
        """,
    ).tag(config=True)

    max_downloads = Int(
        2, min=1, help="Downloads of models that run at the same time; further ones wait for their turn."
    ).tag(config=True)

    keep_leftovers_days = Float(
        30.0,
        min=0.0,
        help="""
        Days after which leftovers are removed when the server starts: the parts of downloads that were
        given up, and what no model refers to. 0: never.
        """,
    ).tag(config=True)

    worker_command = List(
        Unicode(),
        help="""
        The command that starts a worker process, for instance of another Python environment with
        samovar and torch in it: ["/path/to/python", "-m", "samovar_server.engine.worker"].
        Default: this server's own Python.
        """,
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._folders = [Path(folder).expanduser() for folder in self.model_folders]
        conversions = Path(jupyter_data_dir()) / "samovar" / "converted"
        self.sharing = Sharing(parent=self, shared=self.shared, max_queue=self.max_queue)
        """How those who call share what there is."""
        reserve = self.sharing.reserve
        own_engine = TransformersBackend(
            command=self.worker_command,
            slots=self.slots,
            reserve=reserve,
            max_queue=self.max_queue,
            speculative=self.speculative,
            conversions=conversions,
        )
        self._own_engine = own_engine
        vllm = VllmBackend(self.vllm_command, self.vllm_arguments, lambda: self._machine.memory())
        self._backends = Backends([LlamaCppBackend(slots=self.slots, reserve=reserve), own_engine, vllm])
        self._remote = RemoteBackend(parse_remotes(self.remotes), self.log)
        self._loader = Loader(
            self._backends, self.log, load_timeout=self.load_timeout, spare=self.spare_worker
        )
        self.events = EventBus(first_id=time.time_ns() // 10**6)
        """What happens, for GET /v1/events."""
        self._machine = Machine(
            NvidiaGpus.detect(), {"cpu": self.cpu_memory_budget, **self.gpu_memory_budgets}
        )
        self._cache = ModelCache(
            self._loader.launch,
            self._machine,
            clock=SystemClock(),
            log=request_log(self.log),
            default_ttl=self.default_ttl,
            tell=self._tell,
            is_pinned=self._is_pinned,
            patience=self.hang_timeout,
        )
        self.downloads = DownloadDesk(
            Downloads(
                launcher(self._folders[0], self.log),
                lambda: JobStore(Path(jupyter_data_dir()) / "samovar"),
                limit=self.max_downloads,
                tell=self._tell_download,
                log=self.log,
            ),
            self._folders,
            self.aliases,
        )
        """Models on their way to this machine."""
        self._shelf = Shelf(self._folders, self.aliases, conversions)
        self._collectors = (
            CacheCollector(self.stats, self.loaded),
            DownloadCollector(self.downloads.jobs.counts),
        )
        self._preloading: asyncio.Task[None] | None = None

    @validate("default_ttl")
    def _check_default_ttl(self, proposal: Bunch) -> float:
        seconds: float = proposal.value
        if -1 < seconds < 0:
            raise TraitError(
                f"default_ttl: seconds, 0 for ever, or -1 for unloading after use (got {seconds})"
            )
        return seconds

    @validate("remotes")
    def _check_remotes(self, proposal: Bunch) -> dict[str, Any]:
        remotes: dict[str, Any] = proposal.value
        try:
            parse_remotes(remotes)
        except ValueError as error:
            raise TraitError(f"remotes: {error}") from None
        return remotes

    @validate("gpu_memory_budgets")
    def _check_gpu_memory_budgets(self, proposal: Bunch) -> dict[str, int]:
        budgets: dict[str, int] = proposal.value
        for device in budgets:
            if not GPU_NAME.fullmatch(device):
                raise TraitError(f"gpu_memory_budgets: {device!r} is no GPU; write cuda, cuda:0, cuda:1, …")
        return budgets

    @default("model_folders")
    def _default_model_folders(self) -> list[str]:
        return [str(Path(jupyter_data_dir()) / "samovar" / "models")]

    async def start(self) -> None:
        """Begin to serve: start the spare worker and the preloads, without waiting for them."""
        try:
            self._own_engine.check()
        except BackendUnavailable as error:
            self.log.warning(error.message)
        else:
            self._loader.start_spare()
        for collector in self._collectors:
            collector.register()
        self.downloads.jobs.start()
        if self.keep_leftovers_days:
            await self.clean(older_than_days=self.keep_leftovers_days)
        self._preloading = asyncio.create_task(self._preload())

    async def stop(self) -> None:
        """End all worker processes, the spare included, and wait until they are gone."""
        if self._preloading is not None:
            self._preloading.cancel()
            self._preloading = None
            for collector in self._collectors:
                collector.unregister()
        await self.downloads.jobs.stop()
        await self._loader.stop()
        await self._cache.close()
        await self._loader.close()
        await self._remote.close()
        self.events.close()
        self.sharing.usage.close()

    async def _preload(self) -> None:
        """Load the models that the settings want to be there; what goes wrong is logged, not raised."""
        for model in self.preload:
            try:
                await self.load(model, LoadOptions())
            except SamovarError as error:
                self.log.warning("c.Workbench.preload: %s", error.message)

    def _is_pinned(self, plan: LoadPlan) -> bool:
        """Whether the settings pin this model, by any of its names."""
        pins = {*self.pins, *(self.aliases.get(name, name) for name in self.pins)}
        return bool(pins & {plan.model.name, plan.model.reference})

    def _tell_download(self, change: str, job: dict[str, Any]) -> None:
        askers = self.downloads.jobs.get(job["job_id"]).askers
        self.events.publish("download", {"change": change, "job": job}, frozenset(askers))

    def _tell(self, told: Told) -> None:
        match told:
            case ModelChange():
                self.events.publish("model", asdict(told))
                count_change(told)
                if told.model.loaded_at is not None:
                    self._shelf.note_use(Path(told.model.model_path), told.model.last_used)
            case TokensCounted():
                count_tokens(told)
            case QueueLength():
                self.events.publish("queue", asdict(told))

    async def models(self) -> list[ModelCard]:
        """The models on disk, whether in memory or not, and those of remotes. Takes a while.

        An adapter is listed with each model that its config names: as what a request would ask for.
        """
        on_disk = await asyncio.to_thread(list_models, self._folders)
        adapters = await asyncio.to_thread(list_adapters, self._folders)
        resident = {record.model_path for record in self.loaded() if record.state in ("ready", "draining")}
        return (
            [
                ModelCard(
                    id=model.name,
                    created=int(model.modified),
                    owned_by=_owner(model.name),
                    path=str(model.path),
                    loaded=str(model.path) in resident,
                )
                for model in on_disk
            ]
            + [
                ModelCard(
                    id=f"{model.name}{PLUS}{adapter.name}",
                    created=int(model.modified),
                    owned_by=_owner(adapter.name),
                    path=str(adapter.path),
                    loaded=str(model.path) in resident,
                )
                for model in on_disk
                for adapter in adapters
                if adapter.base in (model.name, str(model.path))
            ]
            + [
                ModelCard(id=model.id, created=model.created, owned_by=model.remote, path="", loaded=False)
                for model in await self._remote.models()
            ]
        )

    def acquire(
        self,
        model: str | None,
        options: LoadOptions,
        *,
        route: str | None = None,
        fields: frozenset[str] = frozenset(),
        ttl: float | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold `model` (None: the default one) in memory for one request, loading it first if needed.

        `route` and `fields` are where the request goes and which of its fields ask for something: what the
        model's backend does not honour is refused before anything is loaded. `ttl` is the model's time to
        live, in seconds, from now on. Entering raises InvalidRequest, ModelNotFound, BackendUnavailable,
        InsufficientMemory, Conflict (pinned with other options), LoadFailed, or ModelUnloaded when somebody
        cancels the load. Giving up the wait does not end the load.
        """
        return self._acquire(model, options, route, fields, ttl, on_progress)

    @asynccontextmanager
    async def serve(
        self,
        caller: Caller,
        demand: Demand,
        options: LoadOptions,
        *,
        route: str,
        fields: frozenset[str],
        ttl: float | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> AsyncIterator[tuple[Lease, Meter]]:
        """Hold the model that `demand` names as `acquire` does, and wait for the caller's turn.

        The meter is to be shown what the worker answers. Raises PermissionDenied, QuotaExceeded and
        QueueFull beside what `acquire` raises.
        """
        await self.require_load(caller, demand.model, options, ttl=ttl)
        async with (
            self.sharing.counted(caller, demand),
            self.acquire(
                demand.model, options, route=route, fields=fields, ttl=ttl, on_progress=on_progress
            ) as lease,
            self.sharing.turn(caller, demand, lease, on_progress) as meter,
        ):
            yield lease, meter

    async def require_load(
        self,
        caller: Caller,
        model: str | None,
        options: LoadOptions,
        *,
        ttl: float | None,
        pin: bool | None = None,
    ) -> None:
        """PermissionDenied unless `caller` may use `model`, and bring it into memory where it is not.

        With a time to live, or `pin`, he must also be one who may say which models stay.
        """
        gate = self.sharing.gate
        reference = self.default_model if model is None else model
        if pin is not None or ttl is not None:
            gate.require(caller, "pin", "say how long a model stays in memory (leave out pin and ttl)")
        if gate.limits(caller).models is not None:
            gate.require_model(caller, await self._proper_names(reference, options))
        if self._remote_model(model) is not None:
            return
        base, _ = await self._split(model)
        if self._cache.find(base, options) is None:
            gate.require(caller, "load", f"load models, and {base} is not in memory as you ask for it")

    async def load(
        self,
        model: str | None,
        options: LoadOptions,
        *,
        ttl: float | None = None,
        pin: bool | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> LoadedModel:
        """Bring `model` into memory, or join the load that is under way. Raises what `acquire` raises.

        A pinned model is neither evicted nor expires, until it is unloaded or loaded with `pin` False.
        `pin` None changes nothing. A model that failed is tried again at once, whatever the back-off says.
        """
        if (elsewhere := self._remote_model(model)) is not None:
            return await self._remote.load(elsewhere, options)
        plan, _ = await self._plan(model, options)
        return await self._cache.load(plan, ttl=ttl, pin=pin, on_progress=on_progress)

    async def estimate(self, model: str | None, options: LoadOptions) -> LoadEstimate:
        """What a load would take and which models would go for it; changes nothing.

        A model that is not here is judged by what the Hub tells of it, without a download. Raises
        InvalidRequest, ModelNotFound, BackendUnavailable, HubUnavailable or LoadFailed (damaged files).
        """
        reference, _ = await self._split(model)
        try:
            resolved = await self._resolve(reference)
        except ModelNotFound as missing:
            return self._cache.estimate(await self._plan_from_hub(reference, options, missing), "hub")
        return self._cache.estimate(await self._plan_load(resolved, options), "disk")

    async def _plan_from_hub(self, text: str, options: LoadOptions, missing: ModelNotFound) -> LoadPlan:
        reference = parse_reference(text, self.aliases)
        if not reference.is_hub_name:
            raise missing
        budgets = self._machine.budgets(self._cache.used_bytes())

        def plan() -> LoadPlan:
            from samovar_server.downloader.sketch import sketch  # brings huggingface_hub: half a second

            with sketch(reference.name, reference.revision, reference.file) as drawn:
                tag = tag_of(drawn.gguf[0].name) if drawn.gguf else None
                name = f"{reference.name}:{tag}" if tag else reference.name
                path = drawn.gguf[0] if drawn.gguf else drawn.folder
                model = ResolvedModel(text, name, path, "hub-cache", drawn.commit, drawn.gguf)
                return self._stated(self._backends.plan(model, options, budgets), options)

        try:
            return await asyncio.to_thread(plan)
        except PullFailed as failure:
            if failure.code in NOT_ON_THE_HUB:
                raise ModelNotFound(failure.message, param="model") from failure
            raise HubUnavailable(f"{text} is not on this machine. {failure.message}") from failure

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, those on their way in or out, and those whose last load failed."""
        return self._cache.loaded()

    async def engines(self) -> list[EngineStats]:
        """What the engines of the models that are ready do now; those that do not tell are left out."""
        return [
            replace(engine, waiting=engine.waiting + self.sharing.waiting(engine.cache_key))
            for engine in await self._cache.engines()
        ]

    def workers(self) -> list[WorkerAddress]:
        """Where the workers of the models that are ready answer."""
        return self._cache.workers()

    def stats(self) -> CacheStats:
        """Counters since the server started, and the memory of each device."""
        return self._cache.stats()

    async def diagnosis(self) -> Diagnosis:
        """Whether models can be brought here and run. Reads the disk."""
        problem = None
        try:
            self._own_engine.check()
        except BackendUnavailable as error:
            problem = error.message
        here = self._remote_model(self.default_model) is not None
        with suppress(SamovarError):
            base, _ = await self._split(None)
            await self._resolve(base)
            here = True
        return Diagnosis(
            folders=await asyncio.to_thread(lambda: [folder_state(folder) for folder in self._folders]),
            engine_problem=problem,
            spare=self._loader.spare_state(self._own_engine.name),
            default_model=self.default_model,
            default_model_here=here,
        )

    async def inventory(self) -> Inventory:
        """Every model on disk, complete or not, and what takes space beside them. Reads the disk."""
        used = {
            Path(record.model_path): record.last_used
            for record in self.loaded()
            if record.loaded_at is not None
        }
        return await asyncio.to_thread(self._shelf.inventory, used)

    async def clean(self, *, older_than_days: float = 0.0, dry_run: bool = False) -> Cleaning:
        """Remove what takes space and is no model, unless somebody has written to it since, or works on it.

        With `dry_run` it is only told what would go.
        """
        return await asyncio.to_thread(
            self._shelf.clean,
            before=time.time() - older_than_days * 86_400,
            busy=self.downloads.busy(),
            dry_run=dry_run,
        )

    async def delete(self, model: str) -> int:
        """Take a model, or one revision of it, off the disk; the bytes that are free now.

        Raises InvalidRequest, ModelNotFound, or Conflict while it is in memory or being downloaded.
        """
        paths = await asyncio.to_thread(self._shelf.find, model)
        self.downloads.require_idle(model)
        resident = {Path(record.model_path) for record in self.loaded() if record.state != "failed"}
        return await asyncio.to_thread(self._shelf.delete, paths, resident)

    async def search(self, text: str, limit: int) -> list[FoundModel]:
        """Models of the Hugging Face Hub by a part of their names. Raises HubUnavailable."""
        budgets = self._machine.budgets(self._cache.used_bytes())
        room = max(budgets.values()) - PROCESS_BYTES["cpu"]
        here = {card.id.partition(":")[0] for card in await self.models()}
        return await self.downloads.search(text, limit, room=room, here=here)

    async def unload(
        self, model: str, *, backend: str | None = None, device: str | None = None, mode: Mode = "drain"
    ) -> list[LoadedModel]:
        """Free the memory of `model`, and say what was there; ModelNotFound when it is not in memory.

        `drain` lets its running requests end first, `now` ends them with ModelUnloaded. `backend` and
        `device`, when given, must be those of the resident copy.
        """
        same = await self._ways_to_name(model)

        def is_meant(entry: Entry) -> bool:
            plan = entry.plan
            return (
                bool(same & ({plan.identity, plan.model.name} | entry.references))
                and backend in (None, "auto", plan.backend)
                and device in (None, "auto", plan.device, plan.device.partition(":")[0])
            )

        gone = await self._cache.unload(is_meant, mode)
        if not gone:
            resident = ", ".join(record.model for record in self.loaded()) or "none"
            raise ModelNotFound(f"{model!r} is not in memory. Models in memory: {resident}.", param="model")
        return gone

    async def unload_all(self, *, mode: Mode = "drain") -> list[LoadedModel]:
        """Free the memory of every model."""
        return await self._cache.unload(lambda _: True, mode)

    @asynccontextmanager
    async def _acquire(
        self,
        model: str | None,
        options: LoadOptions,
        route: str | None,
        fields: frozenset[str],
        ttl: float | None,
        on_progress: ProgressCallback | None,
    ) -> AsyncIterator[Lease]:
        if (elsewhere := self._remote_model(model)) is not None:
            yield self._remote.lease(elsewhere, options, route, fields)
            return
        plan, adapter = await self._plan(model, options, route)
        if route is not None:
            refuse_fields(self._backends[plan.backend], route, fields)
        async with self._cache.lease(plan, ttl=ttl, on_progress=on_progress) as lease:
            if adapter is not None:
                lease.headers |= AdapterFolder(adapter.name, str(adapter.path)).header()
            yield lease

    def _remote_model(self, model: str | None) -> RemoteModel | None:
        reference = self.default_model if model is None else model
        return self._remote.find(self.aliases.get(reference, reference))

    async def _plan(
        self, model: str | None, options: LoadOptions, route: str | None = None
    ) -> tuple[LoadPlan, OnDiskAdapter | None]:
        """How to load, and the adapter to add; for a model in memory, without a look at the disk."""
        reference, adapter = await self._split(model)
        plan = self._cache.find(reference, options)
        if plan is None:
            plan = await self._plan_load(await self._resolve(reference), options)
        if adapter is not None:
            refuse_adapter(self._backends[plan.backend], reference, adapter.name, route)
        return plan, adapter

    async def _split(self, model: str | None) -> tuple[str, OnDiskAdapter | None]:
        """The model that is meant, and the adapter to add to it."""
        reference = self.default_model if model is None else model
        if PLUS not in self.aliases.get(reference, reference):
            return reference, None
        return await asyncio.to_thread(split_adapter, reference, folders=self._folders, aliases=self.aliases)

    async def _plan_load(self, model: ResolvedModel, options: LoadOptions) -> LoadPlan:
        budgets = self._machine.budgets(self._cache.used_bytes())
        return self._stated(await asyncio.to_thread(self._backends.plan, model, options, budgets), options)

    @staticmethod
    def _stated(plan: LoadPlan, options: LoadOptions) -> LoadPlan:
        """The plan, counted with what the caller said that it takes, if he did."""
        if options.memory_bytes is None:
            return plan
        return replace(plan, memory=replace(plan.memory, stated_bytes=options.memory_bytes))

    async def _resolve(self, reference: str) -> ResolvedModel:
        return await asyncio.to_thread(resolve, reference, folders=self._folders, aliases=self.aliases)

    async def _proper_names(self, reference: str, options: LoadOptions) -> set[str]:
        """A model's own name, however it is asked for, and its aliases; with an adapter, of both together."""
        if (elsewhere := self._remote_model(reference)) is not None:
            return self._with_aliases({elsewhere.id}, reference)
        base, adapter = await self._split(reference)
        plan, _ = await self._plan(reference, options)
        names = self._with_aliases({plan.model.name}, base)
        if adapter is None:
            return names
        return self._with_aliases({f"{name}{PLUS}{adapter.name}" for name in names}, reference)

    def _with_aliases(self, names: set[str], reference: str) -> set[str]:
        known = names | {reference}
        return names | {alias for alias, meant in self.aliases.items() if known & {alias, meant}}

    async def _ways_to_name(self, model: str) -> set[str]:
        """Every way to name `model`; it may be in memory and on no disk any more."""
        names = {model, self.aliases.get(model, model)}
        try:
            resolved = await self._resolve(model)
        except ModelNotFound:
            return names
        return names | {str(resolved.path)}


def _owner(name: str) -> str:
    """Whose a model on disk is, by its name: the organisation's, or this machine's own."""
    return name.split("/")[0] if "/" in name else "local"
