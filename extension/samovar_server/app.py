"""The Jupyter Server extension: settings, start, stop. Here, and only here, the rooms are put together."""

from __future__ import annotations

import os
import secrets
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from jupyter_server.serverapp import ServerApp

from samovar_handlers.base import SERVICES, Services
from samovar_handlers.forward import Forwarding
from samovar_handlers.routes import forwarding_handlers, tornado_handlers
from samovar_server import __version__
from samovar_server.discovery import DiscoveryFile, local_v1_url
from samovar_server.forwarding import SharedService
from samovar_server.relay import Relay
from samovar_server.sharing import Sharing
from samovar_server.workbench import Workbench


class SamovarApp(ExtensionApp):
    """Language models kept hot for every notebook, behind OpenAI-shaped routes below /v1.

    Loaded by any Jupyter server it adds the routes to it; `jupyter samovar` starts a server with these
    routes and without the Lab.
    """

    name = "samovar_server"
    version = __version__
    description = __doc__ or ""
    examples = """
jupyter samovar                         # a server without the Lab
jupyter samovar --port=8899 --Workbench.default_ttl=0
jupyter lab                             # has the routes, too
"""
    classes = [Workbench, Sharing, ServerApp]  # noqa: RUF012  # declared as Jupyter declares it
    aliases = {**ExtensionApp.aliases, "ip": "ServerApp.ip", "port": "ServerApp.port"}  # noqa: RUF012
    load_other_extensions = False  # of `jupyter samovar` only
    serverapp_config = {"open_browser": False}  # noqa: RUF012

    def initialize_settings(self) -> None:
        """Build what the routes need: a workbench, unless the users of a Hub share one elsewhere."""
        self.discovery = DiscoveryFile()
        # In memory only, new in each process; Jupyter itself does not accept it anywhere.
        self.token = secrets.token_urlsafe(32)
        self.shared = SharedService.given(os.environ)
        if self.shared is not None:
            self.settings[SERVICES] = Forwarding(token=self.token, shared=self.shared)
            return
        self.workbench = Workbench(parent=self)
        self.relay = Relay()
        self.settings[SERVICES] = Services(token=self.token, workbench=self.workbench, relay=self.relay)

    def initialize_handlers(self) -> None:
        """Mount the routes below Jupyter's base URL."""
        self.handlers.extend(tornado_handlers() if self.shared is None else forwarding_handlers())

    async def _start_jupyter_server_extension(self, serverapp: ServerApp) -> None:
        # Jupyter calls this when its port is known and before a kernel can be started.
        if self.shared is None:
            await self.workbench.start()
        self._publish(serverapp)

    def _publish(self, serverapp: ServerApp) -> None:
        """Let kernels find this server."""
        if serverapp.sock:
            self.log.warning("samovar: kernels cannot find this server, as it listens on a Unix socket only.")
            return
        # Under JupyterHub connection_url is the proxy's view; a kernel beside us goes direct.
        hub_url = os.environ.get("JUPYTERHUB_SERVICE_URL")
        url = local_v1_url(hub_url or serverapp.connection_url, "" if hub_url else serverapp.ip)
        try:
            self.discovery.write(url, self.token)
        except OSError as error:
            self.log.warning(
                "samovar: kernels will not find this server by themselves, as %s is not writable (%s). "
                "Set JUPYTER_RUNTIME_DIR, or SAMOVAR_URL and SAMOVAR_TOKEN in the kernels.",
                self.discovery.path.parent,
                error.strerror,
            )
            return
        self.log.info("samovar: models are served at %s", url)
        if self.shared is not None:
            self.log.info("samovar: they run in the service at %s", self.shared.url)

    def current_activity(self) -> dict[str, Any] | None:
        """What keeps an otherwise idle server from shutting itself down: requests that run."""
        if self.shared is not None:
            in_flight = self.shared.in_flight
        else:
            in_flight = sum(model.in_flight for model in self.workbench.loaded())
        return {"requests": in_flight} if in_flight else None

    async def stop_extension(self) -> None:
        """Take the discovery file away, end the workers, close what is still open."""
        try:
            self.discovery.remove()
        finally:
            if self.shared is not None:
                await self.shared.close()
            else:
                await self.workbench.stop()
                await self.relay.close()
