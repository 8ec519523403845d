"""`GET /v1/health`, `GET /v1`, and the answer to every path below /v1 that is none."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from tornado import web

from samovar_handlers.base import GuardedHandler, SamovarHandler, implemented_methods
from samovar_server.errors import PermissionDenied, RouteNotFound
from samovar_server.versions import versions


class HealthHandler(GuardedHandler):
    """Whether the server answers. The only route that is open to everybody, so it tells no more."""

    _track_activity = False  # probes do not keep an idle server alive

    @allow_unauthenticated
    def get(self) -> None:
        """Say that the server answers; needs no credentials."""
        self.finish({"status": "ok"})


class MetricsHandler(SamovarHandler):
    """What Prometheus reads, where no Jupyter server shows it. It tells of all users, so not to all."""

    _track_activity = False

    @web.authenticated
    def get(self) -> None:
        """Show the metrics to administrators."""
        if not self.caller.admin:
            raise PermissionDenied(
                "Metrics are for those who manage the service. Ask an administrator for a token with the "
                "scope custom:samovar:manage."
            )
        self.finish(generate_latest(), set_content_type=CONTENT_TYPE_LATEST)


class RoutesHandler(GuardedHandler):
    """What there is below /v1."""

    def initialize(self, routes: Sequence[tuple[str, type[GuardedHandler]]]) -> None:
        """`routes` are path templates and their handlers."""
        self._routes = routes

    @web.authenticated
    def get(self) -> None:
        """List the routes, and the versions of what answers them."""
        routes = [describe(*route) for route in self._routes]
        self.finish({"object": "list", "data": routes, "versions": versions()})


class DiagnosisHandler(SamovarHandler):
    """Whether the server can do its work."""

    @web.authenticated
    async def get(self) -> None:
        """Tell how the folders for models are, whether models can be run, and how the spare worker is."""
        self.finish(asdict(await self.workbench.diagnosis()))


class UnknownRouteHandler(GuardedHandler):
    """Every other path: answered in OpenAI's error shape, and only to those who may call."""

    @web.authenticated
    def get(self) -> None:
        """Say that there is nothing here, whatever the method."""
        raise RouteNotFound(f"There is no {self.request.path}. GET /v1 lists the routes.")

    head = post = put = patch = delete = get


def describe(path: str, handler: type[GuardedHandler]) -> dict[str, Any]:
    """A route's path, its methods, and what each of them does."""
    methods = {name: inspect.getdoc(getattr(handler, name.lower())) for name in implemented_methods(handler)}
    return {"path": path, "methods": methods}
