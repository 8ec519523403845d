"""Whose request it is that something is logged for: its id is in the message and in the record.

A context variable carries it, as asyncio hands it on to every task that a request starts. So a load's lines
have the id of the request that asked first, and an eviction's that of the one it made room for.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

REQUEST_ID: ContextVar[str | None] = ContextVar("samovar_request_id", default=None)
"""The id of the request that is being answered; None for what nobody asked for."""


class _WithRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        request_id = REQUEST_ID.get()
        if request_id is not None:
            record.request_id = request_id
            record.msg = f"{record.msg} ({request_id})"  # a sane id: see GuardedHandler.request_id
        return True


_WITH_REQUEST_ID = _WithRequestId()


def request_log(log: logging.Logger) -> logging.Logger:
    """A logger below `log` whose records have the id of the request that they are about, `request_id`."""
    child = log.getChild("samovar")
    child.addFilter(_WITH_REQUEST_ID)
    return child
