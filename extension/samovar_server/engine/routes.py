"""The worker's routes."""

from __future__ import annotations

from tornado import web

from samovar_server.engine.chat import ChatHandler
from samovar_server.engine.completions import CompletionsHandler
from samovar_server.engine.embeddings import NO_EMBEDDINGS
from samovar_server.engine.handlers import RefusingHandler, UnknownHandler
from samovar_server.engine.service import Service, StatusHandler
from samovar_server.engine.tokens import DetokenizeHandler, TokenizeHandler


def application(service: Service) -> web.Application:
    """The Tornado application of a worker."""
    shared = {"service": service}
    return web.Application(
        [
            (r"/v1/chat/completions", ChatHandler, shared),
            (r"/v1/completions", CompletionsHandler, shared),
            (r"/v1/tokenize", TokenizeHandler, shared),
            (r"/v1/detokenize", DetokenizeHandler, shared),
            (r"/v1/embeddings", RefusingHandler, shared | {"message": NO_EMBEDDINGS}),
            (r"/status", StatusHandler, shared),
        ],
        default_handler_class=UnknownHandler,
        default_handler_args=shared,
        log_function=lambda handler: None,  # the gateway logs requests, with their callers
    )
