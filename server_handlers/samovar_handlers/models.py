"""`/v1/models`: what is on disk, what is in memory, and bringing it there or away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tornado import web

from samovar_handlers.base import SamovarHandler
from samovar_handlers.sse import DONE, EventStream, json_event, progress_event
from samovar_server.cache.records import LoadedModel
from samovar_server.errors import ModelNotFound
from samovar_server.loader.options import ProgressCallback
from samovar_server.protocol.fields import parse
from samovar_server.protocol.models import (
    CleanRequest,
    EstimateRequest,
    LoadRequest,
    UnloadAllRequest,
    UnloadRequest,
)
from samovar_server.workbench import ModelCard


def as_model(card: ModelCard) -> dict[str, Any]:
    """A model in OpenAI's shape, and whether it is in memory."""
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "loaded": card.loaded,
    }


def as_list(key: str, models: Sequence[LoadedModel]) -> dict[str, Any]:
    """Models in memory, under `key`."""
    return {key: [asdict(model) for model in models], "total_count": len(models)}


class ModelsHandler(SamovarHandler):
    """All models."""

    @web.authenticated
    async def get(self) -> None:
        """List the models on disk and in memory."""
        cards = await self.workbench.models()
        self.finish({"object": "list", "data": [as_model(card) for card in cards]})


class ModelHandler(SamovarHandler):
    """One model."""

    @web.authenticated
    async def get(self, reference: str) -> None:
        """Describe one model, named by its id or an alias."""
        name = self.workbench.aliases.get(reference, reference)
        for card in await self.workbench.models():
            if card.id in {reference, name}:
                self.finish(as_model(card))
                return
        raise ModelNotFound(
            f"There is no model {reference!r} on this machine. GET /v1/models lists those there are; "
            f"`samovar pull {reference}` brings it here.",
            param="model",
        )

    @web.authenticated
    async def delete(self, reference: str) -> None:
        """Take a model (`org/name`), or one revision of it (`org/name@revision`), off the disk."""
        self.require("delete", "delete models")
        freed = await self.workbench.delete(reference)
        self.finish({"id": reference, "object": "model", "deleted": True, "freed_bytes": freed})


class InventoryHandler(SamovarHandler):
    """What lies on the disk."""

    @web.authenticated
    async def get(self) -> None:
        """List every model on disk with its files, complete or not, and what takes space beside them."""
        inventory = await self.workbench.inventory()
        total = inventory.total_size
        self.finish(
            {
                "models": [model.as_json() for model in inventory.models],
                "total_models": len(inventory.models),
                "total_size_bytes": total,
                "total_size_gb": total / 1e9,
                "leftovers": [left.as_json() for left in inventory.leftovers],
            }
        )


class CleanHandler(SamovarHandler):
    """Freeing disk space that no model needs."""

    @web.authenticated
    async def post(self) -> None:
        """Remove parts of downloads that were given up, and what no model refers to; or say what would go."""
        self.require("delete", "clean the disk")
        request = parse(CleanRequest, self.json_body()) if self.request.body else CleanRequest()
        done = await self.workbench.clean(older_than_days=request.older_than_days, dry_run=request.dry_run)
        self.finish(
            {
                "removed": [left.as_json() for left in done.removed],
                "in_use": [left.as_json() for left in done.in_use],
                "freed_bytes": done.freed_bytes,
                "dry_run": request.dry_run,
            }
        )


class LoadHandler(SamovarHandler):
    """Loading ahead of the first request."""

    @web.authenticated
    async def post(self) -> None:
        """Bring a model into memory; with `stream`, tell the progress as server-sent events."""
        request = parse(LoadRequest, self.json_body())
        await self.while_connected(self._stream(request) if request.stream else self._whole(request))

    async def _whole(self, request: LoadRequest) -> None:
        self.finish(asdict(await self._load(request)))

    async def _stream(self, request: LoadRequest) -> None:
        async with EventStream(self, show=progress_event) as events:
            model = await self._load(request, events.on_progress)
            await events.send(json_event(asdict(model)) + DONE)

    async def _load(self, request: LoadRequest, on_progress: ProgressCallback | None = None) -> LoadedModel:
        options = request.load_options()
        await self.workbench.require_load(
            self.caller, request.model, options, ttl=request.ttl, pin=request.pin
        )
        return await self.workbench.load(
            request.model, options, ttl=request.ttl, pin=request.pin, on_progress=on_progress
        )


class EstimateHandler(SamovarHandler):
    """What a load would take."""

    @web.authenticated
    async def post(self) -> None:
        """Tell the memory that a load would take and which models would go for it; loads nothing."""
        request = parse(EstimateRequest, self.json_body())
        self.finish(asdict(await self.workbench.estimate(request.model, request.load_options())))


class LoadedHandler(SamovarHandler):
    """The models in memory."""

    @web.authenticated
    def get(self) -> None:
        """List the models in memory, those being loaded and those whose load failed."""
        self.finish(as_list("loaded_models", self.workbench.loaded()))


class StatsHandler(SamovarHandler):
    """The cache's counters."""

    @web.authenticated
    async def get(self) -> None:
        """Count loads, hits and evictions since the server started; memory in use; what engines do."""
        engines = [asdict(stats) for stats in await self.workbench.engines()]
        self.finish(asdict(self.workbench.stats()) | {"engines": engines})


class UnloadHandler(SamovarHandler):
    """Freeing one model's memory."""

    @web.authenticated
    async def post(self) -> None:
        """Free a model's memory; `mode` says whether its running requests end first."""
        self.require("unload", "unload models")
        request = parse(UnloadRequest, self.json_body())
        unloaded = await self.workbench.unload(
            request.model, backend=request.backend, device=request.device, mode=request.mode
        )
        self.finish(as_list("unloaded_models", unloaded))


class UnloadAllHandler(SamovarHandler):
    """Freeing all memory."""

    @web.authenticated
    async def post(self) -> None:
        """Free the memory of every model."""
        self.require("unload", "unload models")
        request = parse(UnloadAllRequest, self.json_body()) if self.request.body else UnloadAllRequest()
        self.finish(as_list("unloaded_models", await self.workbench.unload_all(mode=request.mode)))
