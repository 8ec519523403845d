"""Who may call: every route, every method, each kind of credentials."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import httpx
import pytest
from jupyter_server.auth import Authorizer
from jupyter_server.serverapp import ServerApp
from tornado import web

from samovar_handlers.base import SERVICES, GuardedHandler, SamovarHandler, Services
from samovar_handlers.routes import ROUTES
from samovar_server.callers import OWNER, Caller
from tests.server_handlers.mounted import BAD_CREDENTIALS, assert_closed, example, mounted


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["message"]


@pytest.fixture
def anonymous(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """The client without its credentials."""
    del client.headers["Authorization"]
    return client


@pytest.fixture
def scoped(anonymous: httpx.AsyncClient, services: Services) -> httpx.AsyncClient:
    """The client with the token that kernels find."""
    anonymous.headers["Authorization"] = f"Bearer {services.token}"
    return anonymous


@BAD_CREDENTIALS
@pytest.mark.parametrize(
    "jp_server_config", [None, True, False], indirect=True, ids=["default", "open", "strict"]
)
async def test_every_route_but_health_is_closed(
    jp_serverapp: ServerApp, anonymous: httpx.AsyncClient, headers: dict[str, bytes]
) -> None:
    routes = mounted(jp_serverapp.web_app, jp_serverapp.base_url)
    assert len(routes) == len(ROUTES) + 1  # and the one that takes all other paths
    for pattern, handler in routes.items():
        assert issubclass(handler, GuardedHandler), pattern
        await assert_closed(anonymous, example(pattern), headers)


@pytest.fixture
def jp_server_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Also with Jupyter's switch for unauthenticated access in both positions."""
    config: dict[str, Any] = {"jpserver_extensions": {"samovar_server": True}}
    if getattr(request, "param", None) is not None:
        config["allow_unauthenticated_access"] = request.param
    return {"ServerApp": config}


async def test_preflight_tells_no_more_than_the_allowed_methods(
    jp_serverapp: ServerApp, anonymous: httpx.AsyncClient
) -> None:
    for pattern in mounted(jp_serverapp.web_app, jp_serverapp.base_url):
        answer = await anonymous.options(example(pattern))
        assert (answer.status_code, answer.content) == (200, b""), pattern


@pytest.mark.parametrize("credentials", [{}, {"Authorization": "Bearer wrong"}], ids=["none", "wrong"])
async def test_health_is_open_and_says_nothing_else(
    anonymous: httpx.AsyncClient, credentials: dict[str, str]
) -> None:
    answer = await anonymous.get("/health", headers=credentials)
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "token", "TOKEN"])
@pytest.mark.parametrize("kind", ["jupyter", "scoped"])
async def test_both_tokens_open_v1(
    jp_serverapp: ServerApp, services: Services, anonymous: httpx.AsyncClient, scheme: str, kind: str
) -> None:
    token = services.token if kind == "scoped" else jp_serverapp.identity_provider.token
    headers = {"Authorization": f"{scheme} {token}"}
    assert (await anonymous.get("/models", headers=headers)).status_code == 200
    answer = await anonymous.post("/models/unload-all", headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["contents", "kernels", "terminals", "sessions", "me", "kernelspecs"])
async def test_the_scoped_token_opens_nothing_else(scoped: httpx.AsyncClient, path: str) -> None:
    assert (await scoped.get("/models")).status_code == 200
    for method in ("GET", "POST"):
        outside = str(scoped.base_url).replace("/v1/", f"/api/{path}")
        assert (await scoped.request(method, outside, json={})).status_code == 403, method


@pytest.mark.parametrize("kind", ["anonymous", "jupyter", "scoped"])
async def test_a_foreign_host_is_refused_whoever_calls(
    client: httpx.AsyncClient, services: Services, kind: str
) -> None:
    if kind == "anonymous":
        del client.headers["Authorization"]
    if kind == "scoped":
        client.headers["Authorization"] = f"Bearer {services.token}"
    for path in ("/models", "/health"):
        answer = await client.get(path, headers={"Host": "evil.example"})
        assert error(answer)[:2] == (403, "permission_denied")


async def log_in(browser: httpx.AsyncClient, token: str) -> str:
    """Log `browser` in by the login page; gives the XSRF token."""
    login = str(browser.base_url).replace("/v1/", "/login")
    await browser.get(login)
    xsrf = browser.cookies["_xsrf"]
    answer = await browser.post(login, data={"password": token, "_xsrf": xsrf})
    assert answer.status_code == 302
    return browser.cookies["_xsrf"]


async def test_a_cookie_needs_the_xsrf_header_to_post(
    jp_serverapp: ServerApp, anonymous: httpx.AsyncClient
) -> None:
    xsrf = await log_in(anonymous, jp_serverapp.identity_provider.token)
    assert (await anonymous.get("/models")).status_code == 200
    status, code, message = error(await anonymous.post("/models/unload-all"))
    assert (status, code) == (403, "permission_denied")
    assert "X-XSRFToken" in message
    assert "Authorization: Bearer" in message
    answer = await anonymous.post("/models/unload-all", headers={"X-XSRFToken": xsrf})
    assert answer.status_code == 200


async def test_a_wrong_token_is_wrong_also_beside_a_good_cookie(
    jp_serverapp: ServerApp, client: httpx.AsyncClient
) -> None:
    await client.get("/models")
    assert client.cookies  # Jupyter sets one for a good token
    for method, path in (("GET", "/models"), ("POST", "/models/unload-all")):
        answer = await client.request(method, path, headers={"Authorization": "Bearer stale"})
        assert error(answer)[:2] == (401, "invalid_api_key")


async def test_a_cookie_is_not_good_for_a_page_of_another_origin(
    jp_serverapp: ServerApp, anonymous: httpx.AsyncClient
) -> None:
    xsrf = await log_in(anonymous, jp_serverapp.identity_provider.token)
    headers = {"Origin": "http://evil.example", "X-XSRFToken": xsrf}
    for method, path in (("GET", "/models"), ("POST", "/models/unload-all")):
        status, code, message = error(await anonymous.request(method, path, headers=headers))
        assert (status, code) == (403, "permission_denied")
        assert "origin" in message


async def test_a_token_is_good_for_any_origin_in_errors_too(client: httpx.AsyncClient) -> None:
    for path in ("/models", "/nowhere"):
        answer = await client.get(path, headers={"Origin": "http://app.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "http://app.example"


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> list[Caller]:
    """Who called, as the handlers know it."""
    seen: list[Caller] = []
    monkeypatch.setattr(SamovarHandler, "on_finish", lambda handler: seen.append(handler.caller))
    return seen


async def test_a_server_of_ones_own_knows_one_caller_who_manages_it(
    jp_serverapp: ServerApp, anonymous: httpx.AsyncClient, services: Services, callers: list[Caller]
) -> None:
    for token in (services.token, jp_serverapp.identity_provider.token):
        await anonymous.get("/models", headers={"Authorization": f"Bearer {token}"})
    assert callers == [OWNER, OWNER]
    assert OWNER.admin


async def test_a_shared_server_says_who_its_users_are(
    jp_serverapp: ServerApp, client: httpx.AsyncClient, services: Services, callers: list[Caller]
) -> None:
    anna = Caller("anna", frozenset({"class"}))
    known = jp_serverapp.web_app.settings[SERVICES]
    jp_serverapp.web_app.settings[SERVICES] = replace(known, caller_of=lambda user: anna)
    await client.get("/models")
    assert callers == [anna]


class ReadOnly(Authorizer):
    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        assert resource == "samovar"
        return action == "read"


async def test_jupyters_authorizer_has_the_last_word_on_its_users(
    jp_serverapp: ServerApp, client: httpx.AsyncClient, services: Services
) -> None:
    jp_serverapp.web_app.settings["authorizer"] = ReadOnly()
    assert (await client.get("/models")).status_code == 200
    assert error(await client.post("/models/unload-all"))[:2] == (403, "permission_denied")
    scoped = {"Authorization": f"Bearer {services.token}"}
    assert (await client.post("/models/unload-all", headers=scoped)).status_code == 200


async def test_without_authentication_a_program_is_told_why_its_post_is_refused(
    jp_serverapp: ServerApp, anonymous: httpx.AsyncClient, services: Services
) -> None:
    jp_serverapp.identity_provider.token = ""
    for headers in ({}, {"Authorization": "Bearer anything"}):
        assert (await anonymous.get("/models", headers=headers)).status_code == 200
    status, _, message = error(await anonymous.post("/models/unload-all"))
    assert status == 403
    assert "X-XSRFToken" in message
    scoped = {"Authorization": f"Bearer {services.token}"}
    assert (await anonymous.post("/models/unload-all", headers=scoped)).status_code == 200


async def test_no_token_reaches_the_log(
    jp_serverapp: ServerApp,
    client: httpx.AsyncClient,
    services: Services,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jupyters = jp_serverapp.identity_provider.token
    assert services.token is not None
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    for token in (jupyters, services.token, "wrong-token"):
        for path in ("/models", "/nowhere", "/models/load"):
            await client.get(path, headers={"Authorization": f"Bearer {token}"}, params={"token": token})
            await client.post(path, headers={"Authorization": f"Bearer {token}"}, params={"token": token})
    assert "/v1/nowhere" in caplog.text
    ours = [
        record.getMessage() for record in caplog.records if not record.name.startswith(("http", "asyncio"))
    ]
    assert ours
    for token in (jupyters, services.token, "wrong-token"):
        assert token not in "\n".join(ours)
    assert services.token not in repr(services)


class SomebodyElse:
    """What a user's own server under JupyterHub asks the Hub by; it knows the caller as another user."""

    async def get_user(self, handler: Any, *, sync: bool) -> dict[str, str]:
        assert not sync
        return {"name": "bob"}


async def test_another_user_of_the_hub_is_known_but_not_allowed(
    jp_serverapp: ServerApp, anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jp_serverapp.identity_provider, "hub_auth", SomebodyElse(), raising=False)
    for method, path in (("GET", "/models"), ("POST", "/models/unload-all")):
        answer = await anonymous.request(method, path, headers={"Authorization": "Bearer bobs"})
        status, code, message = error(answer)
        assert (status, code) == (403, "permission_denied")
        assert "your own server" in message


async def test_an_identity_provider_that_fails_is_no_reason_to_refuse_a_user(
    jp_serverapp: ServerApp, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(handler: Any) -> None:
        raise web.HTTPError(500, "Failed to connect to Hub API")

    monkeypatch.setattr(jp_serverapp.identity_provider, "get_user", fail)
    answer = await client.get("/models")
    assert error(answer)[:2] == (503, "service_unavailable")
    assert answer.headers["Retry-After"] == "5"
