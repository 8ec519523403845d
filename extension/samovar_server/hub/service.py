"""The service of a JupyterHub as a process: its settings, its start, its end."""

from __future__ import annotations

import asyncio
import os
import signal

from jupyter_core.application import JupyterApp
from jupyterhub.httpclient import JupyterHubHTTPClient
from jupyterhub.services.auth import HubAuth
from tornado.httpserver import HTTPServer
from tornado.log import LogFormatter
from traitlets import Bool, Int, default

from samovar_handlers.base import Services
from samovar_server import __version__
from samovar_server.hub.application import hub_application
from samovar_server.hub.identity import HubIdentity, caller_of
from samovar_server.hub.place import Place
from samovar_server.relay import Relay
from samovar_server.sharing import Sharing
from samovar_server.workbench import Workbench

FAREWELL_SECONDS = 3.0
"""How long requests that the stop has broken off may take to tell their clients."""

PARENT_SECONDS = 0.5
"""Between two looks at whether the Hub is still there."""


class HubService(JupyterApp):
    """One workbench for all users of a JupyterHub, who are known by their tokens of the Hub.

    A Hub starts it (c.JupyterHub.services). Settings are read from samovar_hub_config.py in Jupyter's
    configuration folders, from the file that --config names, and from the command line.
    """

    name = "samovar-hub"
    version = __version__
    description = __doc__ or ""
    classes = [Workbench, Sharing, HubAuth]  # noqa: RUF012  # declared as Jupyter declares it
    # With the time, as the Hub and Jupyter's servers log.
    _log_formatter_cls = LogFormatter  # type: ignore[assignment]  # as Jupyter's server does

    identity_seconds = Int(
        30,
        min=1,
        help="""
        Seconds for which the Hub's word about a token counts. A revoked token opens the service that much
        longer, and while the Hub is away its users go on working for as long.
        """,
    ).tag(config=True)

    follow_parent = Bool(
        True,
        help="""
        Stop when the process that started the service is gone, as a Hub is that was killed: the next Hub
        starts a service of its own.
        """,
    ).tag(config=True)

    @default("log_format")
    def _log_format_as_jupyters(self) -> str:
        return "%(color)s[%(levelname)1.1s %(asctime)s.%(msecs).03d %(name)s]%(end_color)s %(message)s"

    def start(self) -> None:
        """Serve until the Hub says to stop, or is gone."""
        super().start()
        try:
            place = Place.given(os.environ)
            asyncio.run(self.serve(place))
        except (ValueError, OSError) as error:
            self.log.critical("samovar's service for JupyterHub cannot start: %s", error)
            self.exit(1)

    async def serve(self, place: Place) -> None:
        """Serve at `place` until a signal; OSError when the address cannot be listened on."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # the Hub sends both, and kills in the end
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        workbench = Workbench(parent=self, shared=True)
        services = Services(token=None, caller_of=caller_of, workbench=workbench, relay=Relay())
        hub = HubAuth(parent=self, cache_max_age=self.identity_seconds)
        server = HTTPServer(hub_application(services, HubIdentity(parent=self, hub=hub), place.prefix))
        server.listen(place.port, place.host)
        try:
            await services.workbench.start()
            self.log.info(
                "samovar: models are served at http://%s:%d%sv1", place.host, place.port, place.prefix
            )
            await self._until_stopped(stop)
        finally:
            await self._close(server, services)

    async def _until_stopped(self, stop: asyncio.Event) -> None:
        parent = os.getppid()
        while not stop.is_set() and (os.getppid() == parent or not self.follow_parent):
            try:
                async with asyncio.timeout(PARENT_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _close(self, server: HTTPServer, services: Services) -> None:
        server.stop()  # first, so that the next service gets the address
        await services.workbench.stop()
        if services.work:
            await asyncio.wait(services.work, timeout=FAREWELL_SECONDS)
        await server.close_all_connections()
        await services.relay.close()
        await JupyterHubHTTPClient.loop_instance().close()
