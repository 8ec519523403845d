"""A user's own server that was told of the service: it forwards all of /v1 and runs nothing itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from jupyter_server.serverapp import ServerApp

from samovar_handlers.base import SERVICES, GuardedHandler
from samovar_handlers.forward import Forwarding
from samovar_server.app import SamovarApp
from samovar_server.callers import OWNER, Caller
from samovar_server.forwarding import HUB_TOKEN, SERVICE_URL, SharedService
from tests.fakes.fake_jupyterhub import FakeHub
from tests.server_handlers.fakes import FakeWorkbench, FakeWorker
from tests.server_handlers.mounted import BAD_CREDENTIALS, CHAT, assert_closed, mounted

PATHS = ["", "/health", "/models", "/chat/completions", "/events", "/models/org/tiny", "/nowhere"]
STREAM = {**CHAT, "stream": True}


@pytest.fixture
def jp_server_config(service_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The server of ada, whom the Hub gave a token of her own."""
    monkeypatch.setenv(SERVICE_URL, service_url)
    monkeypatch.setenv(HUB_TOKEN, "adas-token")
    return {"ServerApp": {"jpserver_extensions": {"samovar_server": True}}}


@pytest.fixture
def app(jp_serverapp: ServerApp) -> SamovarApp:
    (app,) = jp_serverapp.extension_manager.extension_apps["samovar_server"]
    assert isinstance(app, SamovarApp)
    return app


@pytest.fixture
def own(
    jp_asyncio_loop: Any, app: SamovarApp, http_server_client: Any, jp_base_url: str, jp_auth_header: Any
) -> Iterator[httpx.AsyncClient]:
    """A client of ada's own server, with its Jupyter token; paths are relative to /v1."""
    url = http_server_client.get_url(f"{jp_base_url}v1")
    client = httpx.AsyncClient(base_url=url, headers=jp_auth_header, timeout=20, trust_env=False)
    yield client
    jp_asyncio_loop.run_until_complete(client.aclose())


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> list[Caller]:
    """Who called, as each of the two servers knows it."""
    seen: list[Caller] = []
    monkeypatch.setattr(GuardedHandler, "on_finish", lambda handler: seen.append(handler.caller))
    return seen


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["message"]


@asynccontextmanager
async def stream(client: httpx.AsyncClient, **more: Any) -> AsyncIterator[tuple[httpx.Response, Any]]:
    async with client.stream("POST", "/chat/completions", json=STREAM, **more) as answer:
        yield answer, (piece async for piece in answer.aiter_bytes() if not piece.startswith(b":"))


async def test_no_model_runs_here(app: SamovarApp) -> None:
    assert not hasattr(app, "workbench")
    assert isinstance(app.serverapp.web_app.settings[SERVICES], Forwarding)


@BAD_CREDENTIALS
async def test_every_path_but_health_is_closed(
    jp_serverapp: ServerApp, own: httpx.AsyncClient, headers: dict[str, bytes]
) -> None:
    del own.headers["Authorization"]
    routes = mounted(jp_serverapp.web_app, jp_serverapp.base_url)
    assert list(routes) == ["/v1/health/?", "/v1(/.*)?"]
    for path in PATHS:
        await assert_closed(own, path, headers)


async def test_the_service_knows_who_asks(own: httpx.AsyncClient, callers: list[Caller]) -> None:
    assert (await own.get("/models")).json()["data"][0]["id"] == "org/tiny"
    assert callers == [Caller("ada"), OWNER]


async def test_what_a_client_sends_and_gets(
    own: httpx.AsyncClient, client: httpx.AsyncClient, worker: FakeWorker, workbench: FakeWorkbench
) -> None:
    for path in ("/models", "/models/stats", "/models/loaded", "", "/nowhere", "/models/org%2Ftiny"):
        there, here = await client.get(path), await own.get(path)
        assert (here.status_code, here.json()) == (there.status_code, there.json()), path
    worker.say(b'{"choices": []}', None)
    answer = await own.post("/chat/completions", json=CHAT, headers={"X-Request-Id": "mine-1"})
    assert (answer.status_code, answer.content) == (200, b'{"choices": []}')
    assert answer.headers["X-Request-Id"] == "mine-1"
    assert json.loads(worker.requests[0].body) == CHAT
    assert "adas-token" not in str(answer.headers)


async def test_refusals_come_as_they_are(own: httpx.AsyncClient, worker: FakeWorker) -> None:
    status, code, message = error(await own.post("/chat/completions", json={"messages": 1}))
    assert (status, code) == (400, "invalid_value")
    assert "messages" in message
    assert error(await own.put("/models"))[:2] == (405, "method_not_allowed")
    worker.status, worker.headers = 429, {"Retry-After": "7"}
    worker.say(b'{"error": {"message": "m", "code": "queue_full"}}', None)
    answer = await own.post("/chat/completions", json=CHAT)
    assert error(answer) == (429, "queue_full", "m")
    assert answer.headers["Retry-After"] == "7"


async def test_streams_come_piece_by_piece(
    own: httpx.AsyncClient, app: SamovarApp, worker: FakeWorker
) -> None:
    assert app.current_activity() is None
    async with stream(own) as (answer, pieces):
        for piece in (b'data: {"piece": 1}\n\n', b'data: {"piece": 2}\n\n'):
            worker.say(piece)  # the next one is not there before this one has arrived
            assert await anext(pieces) == piece
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert app.current_activity() == {"requests": 1}
        worker.say(b"data: [DONE]\n\n", None)
        assert [piece async for piece in pieces] == [b"data: [DONE]\n\n"]
    assert app.current_activity() is None


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_frees_its_place_in_the_service(
    own: httpx.AsyncClient, worker: FakeWorker, workbench: FakeWorkbench, streams: bool
) -> None:
    asking = asyncio.create_task(own.post("/chat/completions", json=STREAM if streams else CHAT))
    await worker.asked.wait()
    worker.say(b'data: {"piece": 1}\n\n')
    assert workbench.held == 1
    asking.cancel()
    async with asyncio.timeout(20):
        await worker.left.wait()


async def test_events_are_not_activity(
    own: httpx.AsyncClient, app: SamovarApp, workbench: FakeWorkbench
) -> None:
    async with own.stream("GET", "/events") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ":"
        workbench.events.publish("model", {"change": "ready"})
        async for line in lines:
            if line.startswith("data: "):
                break
        assert json.loads(line.removeprefix("data: ")) == {"change": "ready"}
        assert app.current_activity() is None


async def test_a_jupyter_token_in_the_url_stays_here(jp_serverapp: ServerApp, own: httpx.AsyncClient) -> None:
    del own.headers["Authorization"]
    query = {"token": jp_serverapp.identity_provider.token, "q": "a b", "limit": "many"}
    answer = await own.get("/models/search", params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "limit"  # a token would have been refused before


async def test_a_service_that_is_away_is_told(own: httpx.AsyncClient, app: SamovarApp) -> None:
    assert app.shared is not None
    app.shared.url = "http://127.0.0.1:9/services/samovar/v1"
    for answer in (await own.get("/models"), await own.post("/chat/completions", json=STREAM)):
        status, code, message = error(answer)
        assert (status, code) == (503, "service_unavailable")
        assert "administrator" in message
        assert int(answer.headers["Retry-After"]) > 0
    assert (await own.get("/health")).json() == {"status": "ok"}


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: %s\r\n\r\n"


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"text/event-stream", b"14\r\ndata: 1\n\ndata: half\r\n"), (b"application/json", b"2\r\n{}\r\n")],
)
async def test_a_service_that_dies_in_an_answer_is_told(
    own: httpx.AsyncClient, app: SamovarApp, kind: bytes, body: bytes
) -> None:
    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD % kind + body)
        writer.close()

    dying = await asyncio.start_server(begin, "127.0.0.1", 0)
    assert app.shared is not None
    app.shared.url = f"http://127.0.0.1:{dying.sockets[0].getsockname()[1]}/v1"
    answer = await own.get("/models")
    if kind == b"application/json":
        assert error(answer)[:2] == (503, "service_unavailable")
    else:
        first, last = answer.text.removesuffix("\n\n").split("\n\n")
        assert first == "data: 1"
        told = json.loads(last.removeprefix("data: "))["error"]
        assert told["code"] == "service_unavailable"
        assert "send the request again" in told["message"]
    dying.close()
    await dying.wait_closed()


async def test_a_token_that_was_revoked_is_not_the_clients_fault(
    own: httpx.AsyncClient, hub: FakeHub
) -> None:
    del hub.tokens["adas-token"]
    status, code, message = error(await own.get("/models"))
    assert (status, code) == (503, "service_unavailable")
    assert "control panel" in message


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({SERVICE_URL: "ftp://x/v1", HUB_TOKEN: "t"}, "has to look like"),
        ({SERVICE_URL: "http://x/services/samovar", HUB_TOKEN: "t"}, "has to look like"),
        ({SERVICE_URL: "http://x/v1"}, HUB_TOKEN),
    ],
)
def test_a_wrong_environment_is_told(environ: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SharedService.given(environ)


def test_without_the_variable_there_is_no_service() -> None:
    assert SharedService.given({HUB_TOKEN: "t"}) is None
