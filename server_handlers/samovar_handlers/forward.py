"""All of /v1 on a server that belongs to one user of a JupyterHub: the service of the Hub answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, quote, urlencode

from tornado import web
from tornado.iostream import StreamClosedError

from samovar_handlers.base import SERVICES, Door, GuardedHandler
from samovar_handlers.sse import json_event, whole_events
from samovar_server.forwarding import ServiceAnswer, SharedService

ASKED = ("Accept", "Content-Type", "Last-Event-ID")
"""Headers of a request that are the service's business. Credentials and cookies are this server's."""

ANSWERED = ("Allow", "Cache-Control", "Content-Type", "Retry-After", "X-Accel-Buffering", "X-Samovar-Evicted")
"""Headers of an answer that are the client's business. This server sets its own for the rest."""

EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding(Door):
    """What this server's routes work with, behind the door."""

    shared: SharedService


class ForwardHandler(GuardedHandler):
    """Every path below /v1: this server says who may call, the service answers."""

    @property
    def shared(self) -> SharedService:
        """The service."""
        return cast("Forwarding", self.settings[SERVICES]).shared

    @web.authenticated
    async def get(self, path: str | None = None) -> None:
        """Whatever the service answers, as it comes."""
        await self.while_connected(self._forward(path or ""))

    head = post = put = patch = delete = get

    async def _forward(self, path: str) -> None:
        request = self.request
        assert request.method is not None
        headers = {name: request.headers[name] for name in ASKED if name in request.headers}
        headers["X-Request-Id"] = self.request_id
        target = quote(path) + self._query()
        async with self.shared.send(request.method, target, headers, request.body) as answer:
            self.set_status(answer.status)
            for name in ANSWERED:
                if name in answer.headers:
                    self.set_header(name, answer.headers[name])
            if answer.headers.get("Content-Type", "").startswith(EVENTS):
                await self._stream(answer)
            else:
                body = await answer.body()
                self.finish(
                    body or None, set_content_type=answer.headers.get("Content-Type", "application/json")
                )

    def _query(self) -> str:
        """The request's query without the token by which Jupyter may have let the caller in."""
        pairs = parse_qsl(self.request.query, keep_blank_values=True)
        query = urlencode([pair for pair in pairs if pair[0] != "token"])
        return f"?{query}" if query else ""

    async def _stream(self, answer: ServiceAnswer) -> None:
        await self.flush()
        try:
            async for events in whole_events(answer.chunks()):
                self.write(events)
                await self.flush()
        except StreamClosedError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is to hear of it
            self.log_exception(type(error), error, error.__traceback__)
            self.write(json_event(self.as_error(error).body()))
