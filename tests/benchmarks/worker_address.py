"""A Jupyter extension for the benchmarks: tells where a model's worker listens, so that it can be called
without the gateway, and when each phase of its load began. It is copied into the folder where the measured
server runs, and loaded from there.
"""

from __future__ import annotations

import json
import time

from jupyter_server.base.handlers import APIHandler
from jupyter_server.serverapp import ServerApp
from tornado import web

from samovar_handlers.base import SERVICES
from samovar_server.loader.options import LoadProgress
from samovar_server.protocol.models import LoadRequest

ROUTE = "/worker-address"


class WorkerAddress(APIHandler):
    """POST a load request, which is carried out or joined. The answer has the URL and the secret of the
    worker, and `phases`: when each phase of the load began, in seconds of `time.time()`.
    """

    @web.authenticated
    async def post(self) -> None:
        asked = LoadRequest.model_validate(json.loads(self.request.body))
        workbench = self.settings[SERVICES].workbench
        phases: dict[str, float] = {}

        def note(progress: LoadProgress) -> None:
            phases.setdefault(progress.phase, time.time())

        async with workbench.acquire(asked.model, asked.load_options(), on_progress=note) as lease:
            phases.setdefault("ready", time.time())
            self.finish({"url": lease.url, "secret": lease.secret, "phases": phases})


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "worker_address"}]


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    assert serverapp.web_app is not None
    serverapp.web_app.add_handlers(".*", [(ROUTE, WorkerAddress)])
