"""The table of routes below /v1, and how Tornado gets it."""

from __future__ import annotations

import re
from typing import Any

from samovar_handlers.base import GuardedHandler
from samovar_handlers.chat import ChatCompletionsHandler
from samovar_handlers.completions import CompletionsHandler
from samovar_handlers.downloads import (
    DownloadHandler,
    DownloadsHandler,
    ResumeHandler,
    SearchHandler,
    VerifyRepoHandler,
)
from samovar_handlers.embeddings import EmbeddingsHandler
from samovar_handlers.events import EventsHandler
from samovar_handlers.forward import ForwardHandler
from samovar_handlers.models import (
    CleanHandler,
    EstimateHandler,
    InventoryHandler,
    LoadedHandler,
    LoadHandler,
    ModelHandler,
    ModelsHandler,
    StatsHandler,
    UnloadAllHandler,
    UnloadHandler,
)
from samovar_handlers.system import DiagnosisHandler, HealthHandler, RoutesHandler, UnknownRouteHandler
from samovar_handlers.tokens import DetokenizeHandler, TokenizeHandler
from samovar_handlers.usage import UsageHandler

ROUTES: list[tuple[str, type[GuardedHandler]]] = [
    ("/v1", RoutesHandler),
    ("/v1/health", HealthHandler),
    ("/v1/chat/completions", ChatCompletionsHandler),
    ("/v1/completions", CompletionsHandler),
    ("/v1/embeddings", EmbeddingsHandler),
    ("/v1/tokenize", TokenizeHandler),
    ("/v1/detokenize", DetokenizeHandler),
    ("/v1/events", EventsHandler),
    ("/v1/diagnosis", DiagnosisHandler),
    ("/v1/usage", UsageHandler),
    ("/v1/models", ModelsHandler),
    ("/v1/models/load", LoadHandler),
    ("/v1/models/estimate", EstimateHandler),
    ("/v1/models/loaded", LoadedHandler),
    ("/v1/models/stats", StatsHandler),
    ("/v1/models/unload", UnloadHandler),
    ("/v1/models/unload-all", UnloadAllHandler),
    ("/v1/models/download", DownloadsHandler),
    ("/v1/models/download/{job_id}/resume", ResumeHandler),
    ("/v1/models/download/{job_id}", DownloadHandler),
    ("/v1/models/verify-repo", VerifyRepoHandler),
    ("/v1/models/search", SearchHandler),
    ("/v1/models/inventory", InventoryHandler),
    ("/v1/models/clean", CleanHandler),
    ("/v1/models/{id}", ModelHandler),  # after the fixed names: an id may be any path
]


def tornado_handlers() -> list[tuple[str, type[GuardedHandler], dict[str, Any]]]:
    """The routes as Tornado wants them, relative to Jupyter's base URL; the last one takes the rest."""
    handlers = [
        (_pattern(path), handler, {"routes": ROUTES} if handler is RoutesHandler else {})
        for path, handler in ROUTES
    ]
    return [*handlers, (r"/v1/.*", UnknownRouteHandler, {})]


def forwarding_handlers() -> list[tuple[str, type[GuardedHandler], dict[str, Any]]]:
    """The routes of a server that forwards. Whether it answers itself is all that it says by itself."""
    return [(_pattern("/v1/health"), HealthHandler, {}), (r"/v1(/.*)?", ForwardHandler, {})]


def _pattern(path: str) -> str:
    """A path template as a regular expression; a trailing slash is the same route."""
    return re.sub(r"\\{\w+\\}", "(.+?)", re.escape(path)) + "/?"
