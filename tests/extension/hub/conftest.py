"""The service as an application in this process; its Hub, its workbench and its worker are fakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jupyterhub.httpclient import JupyterHubHTTPClient
from jupyterhub.services.auth import HubAuth
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from samovar_handlers.base import Services
from samovar_server.hub.application import hub_application
from samovar_server.hub.identity import HubIdentity, caller_of
from samovar_server.relay import Relay
from tests.fakes.fake_jupyterhub import USE, FakeHub, user
from tests.fakes.served import served
from tests.server_handlers.fakes import FakeWorkbench, FakeWorker

PREFIX = "/services/samovar/"


@pytest.fixture
def hub(jp_asyncio_loop: Any) -> Iterator[FakeHub]:
    """A Hub that knows ada."""

    with served(jp_asyncio_loop, lambda: FakeHub({"adas-token": user("ada")})) as hub:
        yield hub

        async def close_client() -> None:
            await JupyterHubHTTPClient.loop_instance().close()

        jp_asyncio_loop.run_until_complete(close_client())


@pytest.fixture
def hub_auth(hub: FakeHub) -> HubAuth:
    return HubAuth(api_url=hub.url, api_token="services-token", access_scopes={USE}, cache_max_age=30)


@pytest.fixture
def worker(jp_asyncio_loop: Any) -> Iterator[FakeWorker]:
    with served(jp_asyncio_loop, FakeWorker) as worker:
        yield worker


@pytest.fixture
def workbench(worker: FakeWorker) -> FakeWorkbench:
    return FakeWorkbench(worker.url)


@pytest.fixture
def service(workbench: FakeWorkbench, hub_auth: HubAuth) -> web.Application:
    """The service, not listening."""
    services = Services(token=None, caller_of=caller_of, workbench=workbench, relay=Relay())
    return hub_application(services, HubIdentity(hub=hub_auth), PREFIX)


@pytest.fixture
def service_url(jp_asyncio_loop: Any, service: web.Application) -> Iterator[str]:
    """The URL of the service's /v1."""

    async def start() -> tuple[HTTPServer, str]:
        (socket,) = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(service)
        server.add_socket(socket)
        return server, f"http://127.0.0.1:{socket.getsockname()[1]}{PREFIX}v1"

    async def stop() -> None:
        server.stop()
        await server.close_all_connections()

    server, url = jp_asyncio_loop.run_until_complete(start())
    yield url
    jp_asyncio_loop.run_until_complete(stop())


@pytest.fixture
def client(jp_asyncio_loop: Any, service_url: str) -> Iterator[httpx.AsyncClient]:
    """A client of ada's whose paths are relative to the service's /v1."""
    headers = {"Authorization": "Bearer adas-token"}
    client = httpx.AsyncClient(base_url=service_url, headers=headers, timeout=20, trust_env=False)
    yield client
    jp_asyncio_loop.run_until_complete(client.aclose())
