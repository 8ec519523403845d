"""A Jupyter server with the extension, whose workbench and worker are fakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from jupyter_server.serverapp import ServerApp

from samovar_handlers.base import SERVICES, Services
from samovar_server.callers import Caller
from tests.fakes.served import served
from tests.server_handlers.fakes import Become, FakeWorkbench, FakeWorker


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    return {"ServerApp": {"jpserver_extensions": {"samovar_server": True}}}


@pytest.fixture
def worker(jp_asyncio_loop: Any) -> Iterator[FakeWorker]:
    with served(jp_asyncio_loop, FakeWorker) as worker:
        yield worker


@pytest.fixture
def services(jp_serverapp: ServerApp) -> Services:
    services = jp_serverapp.web_app.settings[SERVICES]
    assert isinstance(services, Services)
    return services


@pytest.fixture
def workbench(jp_serverapp: ServerApp, services: Services, worker: FakeWorker) -> FakeWorkbench:
    workbench = FakeWorkbench(worker.url, parent=services.workbench.parent)
    jp_serverapp.web_app.settings[SERVICES] = replace(services, workbench=workbench)
    return workbench


@pytest.fixture
def base_url(http_server_client: Any, jp_base_url: str) -> str:
    """The URL of /v1."""
    url: str = http_server_client.get_url(jp_base_url + "v1")
    return url


@pytest.fixture
def client(
    jp_asyncio_loop: Any, base_url: str, workbench: FakeWorkbench, jp_auth_header: dict[str, str]
) -> Iterator[httpx.AsyncClient]:
    """An authenticated client whose paths are relative to /v1."""
    client = httpx.AsyncClient(base_url=base_url, headers=jp_auth_header, timeout=20, trust_env=False)
    yield client
    jp_asyncio_loop.run_until_complete(client.aclose())


@pytest.fixture
def shared(jp_serverapp: ServerApp, services: Services, worker: FakeWorker) -> FakeWorkbench:
    """A workbench of many, in the server."""
    return FakeWorkbench(worker.url, parent=services.workbench.parent, shared=True)


@pytest.fixture
def become(jp_serverapp: ServerApp, shared: FakeWorkbench, client: httpx.AsyncClient) -> Become:
    """Says who sends the requests from now on: a name, with `admin` before it one who manages the server."""
    known = jp_serverapp.web_app.settings[SERVICES]

    def become(name: str) -> None:
        caller = Caller(name, frozenset({"class"}), admin=name.startswith("admin"))
        jp_serverapp.web_app.settings[SERVICES] = replace(
            known, workbench=shared, caller_of=lambda user: caller
        )

    return become
