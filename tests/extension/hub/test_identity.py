"""Who may call the service: every route, each kind of token, and what the Hub's word is worth."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from jupyterhub.services.auth import HubAuth
from tornado import web

from samovar_handlers.base import GuardedHandler
from samovar_handlers.routes import ROUTES
from samovar_server.callers import Caller
from tests.extension.hub.conftest import PREFIX
from tests.fakes.fake_jupyterhub import FakeHub, user
from tests.server_handlers.mounted import BAD_CREDENTIALS, assert_closed, example, mounted


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["message"]


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> list[Caller]:
    """Who called, as the handlers know it."""
    seen: list[Caller] = []
    monkeypatch.setattr(GuardedHandler, "on_finish", lambda handler: seen.append(handler.caller))
    return seen


@BAD_CREDENTIALS
async def test_every_route_but_health_is_closed(
    service: web.Application, client: httpx.AsyncClient, headers: dict[str, bytes]
) -> None:
    del client.headers["Authorization"]
    routes = mounted(service, PREFIX)
    assert len(routes) == len(ROUTES) + 1
    for pattern in routes:
        await assert_closed(client, example(pattern), headers)
    root = str(client.base_url).removesuffix("v1/")
    for outside in (root, f"{root}metrics", root.removesuffix(f"{PREFIX[1:]}")):
        await assert_closed(client, outside, headers)


async def test_health_is_open(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    answer = await client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "token"])
async def test_a_token_of_the_hub_opens_the_service(client: httpx.AsyncClient, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} adas-token"}
    assert (await client.get("/models", headers=headers)).json()["data"][0]["id"] == "org/tiny"
    answer = await client.post("/models/load", json={"model": "tiny"}, headers=headers)
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers


async def test_a_token_in_the_url_opens_nothing(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    assert (await client.get("/models", params={"token": "adas-token"})).status_code == 401


async def test_a_token_without_the_scope_is_known_but_not_allowed(
    client: httpx.AsyncClient, hub: FakeHub
) -> None:
    hub.tokens["other"] = user("bob") | {
        "scopes": ["access:servers!server=bob/", "access:services!service=x"]
    }
    for method, path in (("GET", "/models"), ("POST", "/chat/completions"), ("GET", "/nowhere")):
        answer = await client.request(method, path, headers={"Authorization": "Bearer other"})
        status, code, message = error(answer)
        assert (status, code) == (403, "permission_denied")
        assert "access:services!service=samovar" in message


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (user("ada", groups=["class"]), Caller("ada", frozenset({"class"}))),
        (user("ada", admin=True), Caller("ada", admin=True)),
        (user("ada", "custom:samovar:manage"), Caller("ada", admin=True)),
        ({"kind": "service", "name": "ada", "scopes": ["access:services"]}, Caller("service:ada")),
    ],
    ids=["group", "admin", "manager", "service"],
)
async def test_the_hub_says_who_calls(
    client: httpx.AsyncClient,
    hub: FakeHub,
    callers: list[Caller],
    model: dict[str, Any],
    expected: Caller,
) -> None:
    hub.tokens["adas-token"] = model
    assert (await client.get("/models/stats")).status_code == 200
    assert callers == [expected]


async def test_the_hub_is_asked_once_in_a_while(
    client: httpx.AsyncClient, hub: FakeHub, hub_auth: HubAuth
) -> None:
    for _ in range(5):
        assert (await client.get("/models")).status_code == 200
    assert hub.asked == {"adas-token": 1}
    del hub.tokens["adas-token"]
    for key in hub_auth.cache.timestamps:
        hub_auth.cache.timestamps[key] -= 31  # that many seconds later
    assert error(await client.get("/models"))[:2] == (401, "invalid_api_key")


async def test_a_hub_that_fails_is_no_reason_to_refuse_a_user(
    client: httpx.AsyncClient, hub: FakeHub
) -> None:
    hub.broken = True
    answer = await client.get("/models")
    assert error(answer)[:2] == (503, "service_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    hub.broken = False
    assert (await client.get("/models")).status_code == 200


async def test_metrics_are_for_administrators(client: httpx.AsyncClient, hub: FakeHub) -> None:
    metrics = str(client.base_url).replace("/v1/", "/metrics")
    assert error(await client.get(metrics))[:2] == (403, "permission_denied")
    hub.tokens["boss"] = user("bo", "custom:samovar:manage")
    answer = await client.get(metrics, headers={"Authorization": "Bearer boss"})
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "samovar_loads_total" in answer.text


async def test_no_token_reaches_the_log(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for token in ("adas-token", "wrong-token"):
        for path in ("/models", "/nowhere"):
            await client.get(path, headers={"Authorization": f"Bearer {token}"}, params={"token": token})
    ours = [
        record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))
    ]
    assert "/v1/nowhere" in "\n".join(ours)
    assert not [line for line in ours if "adas-token" in line or "wrong-token" in line]
