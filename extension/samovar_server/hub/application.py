"""The routes of the extension as an application of their own, below the prefix of a Hub's service."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth import AllowAllAuthorizer
from jupyter_server.log import log_request
from tornado import web

from samovar_handlers.base import SERVICES, Services
from samovar_handlers.routes import tornado_handlers
from samovar_handlers.system import MetricsHandler, UnknownRouteHandler
from samovar_server.hub.identity import HubIdentity


def hub_application(services: Services, identity: HubIdentity, prefix: str) -> web.Application:
    """Everything that the service answers; `prefix` has a slash at both ends."""
    base = prefix.rstrip("/")
    routes: list[tuple[str, type[web.RequestHandler], dict[str, Any]]] = [
        *((base + pattern, handler, arguments) for pattern, handler, arguments in tornado_handlers()),
        (f"{base}/metrics", MetricsHandler, {}),
        (".*", UnknownRouteHandler, {}),
    ]
    settings: dict[str, Any] = {
        SERVICES: services,
        "base_url": prefix,
        "identity_provider": identity,
        # Whom the Hub lets in may call. What a caller may do there, the routes say.
        "authorizer": AllowAllAuthorizer(identity_provider=identity),
        # That check protects logins by cookie from pages that reach a server by a name of their own.
        "allow_remote_access": True,
        "log_function": log_request,
    }
    return web.Application([*routes], **settings)
