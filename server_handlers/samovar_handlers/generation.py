"""The way of a generating request: hold the model, send the body to its worker, pass the answer on."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from urllib.parse import quote

from samovar_handlers.base import SamovarHandler
from samovar_handlers.sse import DONE, EventStream, event, whole_events
from samovar_server.cache.lease import Lease
from samovar_server.loader.options import ProgressCallback
from samovar_server.metrics import StreamTimer
from samovar_server.protocol.fields import GenerationRequest, LoadFields
from samovar_server.relay import WorkerAnswer
from samovar_server.sharing import Demand
from samovar_server.usage.meter import Meter, estimated_prompt


def evictions(lease: Lease) -> str:
    """The cache keys of the models that went for a request, for a header or a comment."""
    return ", ".join(quote(key, safe="/|:@=") for key in lease.evicted)


class GenerationHandler(SamovarHandler):
    """Base of the routes that a worker answers."""

    async def generate(self, path: str, body: bytes, request: GenerationRequest) -> None:
        """Have the worker of the request's model answer `body` at `path`; `request` is `body`, checked."""
        work = self._stream(path, body, request) if request.stream else self._whole(path, body, request)
        await self.while_connected(work)

    async def ask(self, path: str, body: bytes, request: LoadFields) -> None:
        """Have the worker of the request's model answer `body` at `path`, in one piece."""
        await self.while_connected(self._whole(path, body, request))

    async def _whole(self, path: str, body: bytes, request: LoadFields) -> None:
        async with self._served(path, body, request) as (lease, meter):
            self._tell_evictions(lease)
            async with self.services.relay.post(lease, path, body) as answer:
                await self._pass_on(answer, meter)

    async def _stream(self, path: str, body: bytes, request: GenerationRequest) -> None:
        timer = StreamTimer()
        async with (
            EventStream(self) as events,
            self._served(path, body, request, events.on_progress) as (lease, meter),
        ):
            events.loaded()
            if self._tell_evictions(lease) and events.begun:  # too late for a header
                await events.send(f": evicted {evictions(lease)}\n\n".encode())
            async with self.services.relay.post(lease, path, body) as answer:
                if answer.status == HTTPStatus.OK:
                    async for whole in whole_events(answer.chunks()):
                        if whole != DONE:
                            timer.piece(lease.model.model)
                        if passed := meter.events(whole, wants_usage=request.include_usage):
                            await events.send(passed)
                elif await events.settle():
                    refusal = await answer.body()
                    meter.answer(refusal)
                    await events.send(event(refusal))
                else:
                    await self._pass_on(answer, meter)

    def _served(
        self, path: str, body: bytes, request: LoadFields, on_progress: ProgressCallback | None = None
    ) -> AbstractAsyncContextManager[tuple[Lease, Meter]]:
        return self.workbench.serve(
            self.caller,
            Demand(request.model, request.sequences, estimated_prompt(body)),
            request.load_options(),
            route=path,
            fields=request.asked(),
            ttl=request.ttl,
            on_progress=on_progress,
        )

    def _tell_evictions(self, lease: Lease) -> bool:
        """Say in a header which models went for this request; False when none did."""
        if lease.evicted:
            self.set_header("X-Samovar-Evicted", evictions(lease))
        return bool(lease.evicted)

    async def _pass_on(self, answer: WorkerAnswer, meter: Meter) -> None:
        body = await answer.body()
        meter.answer(body)
        self.set_status(answer.status)
        if (retry_after := answer.header("Retry-After")) is not None:
            self.set_header("Retry-After", retry_after)
        self.finish(body)
