"""`GET /v1/events`: what happens to models, downloads and queues, as server-sent events."""

from __future__ import annotations

import json

from tornado import web

from samovar_handlers.base import SamovarHandler
from samovar_handlers.sse import KEEP_ALIVE_SECONDS, open_stream
from samovar_server.errors import InvalidRequest
from samovar_server.events import Event, EventBus

COMMENT = b":\n\n"
"""Keeps a connection alive on which nothing happens; clients ignore it."""


class EventsHandler(SamovarHandler):
    """Everything that changes, as it changes."""

    @web.authenticated
    async def get(self) -> None:
        """Tell every change of a model, a queue or one's own downloads; Last-Event-ID resumes after it."""
        events = self.workbench.events
        last = self._last_event_id(events.newest)
        await self.while_connected(self._follow(events, last))

    def _last_event_id(self, newest: int) -> int:
        given = self.request.headers.get("Last-Event-ID", "")
        if not given:
            return newest
        if not given.isascii() or not given.isdigit() or len(given) > 18:
            raise InvalidRequest(
                "Last-Event-ID: the id of an event of this stream is a number. Leave it out to begin now.",
                param="Last-Event-ID",
            )
        return int(given)

    async def _follow(self, events: EventBus, last: int) -> None:
        open_stream(self)
        self.write(COMMENT)  # so that the client sees at once that it listens
        await self.flush()
        while not events.closed:
            for event in events.after(last):
                if event.is_for(self.caller):
                    self.write(as_bytes(event))
                last = event.id
            await self.flush()
            if not await events.wait(last, KEEP_ALIVE_SECONDS):
                self.write(COMMENT)


def as_bytes(event: Event) -> bytes:
    """An event as https://html.spec.whatwg.org/multipage/server-sent-events.html has it."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n".encode()
