"""What the worker's HTTP handlers share: the secret, the shape of errors, a client that goes away."""

from __future__ import annotations

import hmac
import json
from typing import Any

from tornado import web
from tornado.iostream import StreamClosedError

from samovar_server.engine.generation import Aborted, Generation
from samovar_server.errors import InvalidApiKey, InvalidRequest, RouteNotFound, SamovarError
from samovar_server.protocol.adapters import ADAPTER_HEADER, AdapterFolder
from samovar_server.protocol.place import PLACE_HEADER, Place


class WorkerHandler(web.RequestHandler):
    """Checks the secret and answers errors in OpenAI's shape."""

    def initialize(self, service: Any) -> None:
        """Tornado's constructor; `service` has at least a `secret`."""
        self.service = service

    def prepare(self) -> None:
        """Refuse whoever does not know the secret."""
        given = self.request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.service.secret}".encode()):
            raise InvalidApiKey("This is a samovar worker's private port. Use the Jupyter server's /v1.")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """The error as JSON; what is no SamovarError is a fault of ours and is logged by Tornado."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if not isinstance(error, SamovarError):
            error = SamovarError("The model's worker failed on this request. See the server's log.")
        self.set_status(error.status)
        if error.retry_after is not None:
            self.set_header("Retry-After", str(error.retry_after))
        self.finish(error.body())

    def log_exception(self, *exc_info: Any) -> None:
        """Answers are not incidents."""
        if not isinstance(exc_info[1], SamovarError):
            super().log_exception(*exc_info)


class GeneratingHandler(WorkerHandler):
    """Base of the routes that generate: a client that goes away frees its slots within one step."""

    generation: Generation | None = None
    gone = False
    streaming = False

    async def post(self) -> None:
        """Answer the request."""
        self.place = Place.of_header(self.request.headers.get(PLACE_HEADER))
        self.adapter = await self.service.adapter(
            AdapterFolder.of_header(self.request.headers.get(ADAPTER_HEADER))
        )
        try:
            await self.answer()
        except (Aborted, StreamClosedError):
            return  # nobody is left to answer
        except SamovarError as error:
            if not self.streaming:
                raise
            self.event(error.body())
            self.finish()

    async def answer(self) -> None:
        """Generate and write the answer, whole or as events."""
        raise NotImplementedError

    def begin(self, generation: Generation) -> None:
        """Start `generation`, and end it when the client goes."""
        self.generation = generation
        generation.start()
        if self.gone:
            generation.abort()

    def on_connection_close(self) -> None:
        """The client has gone: in the queue, in prefill or in decode."""
        self.gone = True
        if self.generation is not None:
            self.generation.abort()

    def open_stream(self) -> None:
        """Headers of server-sent events. An error from now on is an event too, and the last."""
        self.streaming = True
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")

    def event(self, data: dict[str, Any]) -> None:
        """Write one event; `flush` sends it."""
        self.write(f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n")

    def close_stream(self) -> None:
        """The end that clients wait for."""
        self.write("data: [DONE]\n\n")
        self.finish()


class UnknownHandler(WorkerHandler):
    """Any other path."""

    def prepare(self) -> None:
        """404, for those who know the secret."""
        super().prepare()
        raise RouteNotFound("A worker has no such route.")


class RefusingHandler(WorkerHandler):
    """A route that this kind of model cannot serve."""

    def initialize(self, service: Any, message: str) -> None:  # type: ignore[override]
        """`message` says what to do instead."""
        super().initialize(service)
        self.message = message

    def post(self) -> None:
        """Always a 400."""
        raise InvalidRequest(self.message, param="model")
