"""What goes wrong is answered in OpenAI's error shape, with a way out and without internals."""

from __future__ import annotations

import json
import logging

import httpx
import pytest
from jupyter_server.serverapp import ServerApp

from samovar_server.errors import QueueFull
from samovar_server.loader.options import ProgressCallback
from tests.server_handlers.fakes import FakeWorkbench

CHAT = {"messages": [{"role": "user", "content": "hello"}]}
JSON = {"Content-Type": "application/json"}


def error(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message; asserts the shape on the way."""
    body = answer.json()
    assert answer.headers["Content-Type"].startswith("application/json")
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return answer.status_code, body["error"]["code"], body["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/nowhere", "/chat", "/chat/completions/x", "/healthy", "/a/b?c=d"])
async def test_unknown_paths(client: httpx.AsyncClient, method: str, path: str) -> None:
    status, code, message = error(await client.request(method, path))
    assert (status, code) == (404, "not_found")
    assert "GET /v1 lists the routes" in message


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/chat/completions", "POST"), ("DELETE", "/models/load", "POST"), ("PUT", "/models", "GET")],
)
async def test_wrong_methods(client: httpx.AsyncClient, method: str, path: str, allowed: str) -> None:
    answer = await client.request(method, path)
    assert error(answer)[:2] == (405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed
    assert allowed in error(answer)[2]


async def test_a_method_that_http_does_not_know(client: httpx.AsyncClient) -> None:
    assert error(await client.request("BREW", "/models"))[:2] == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["", "/", "/models", "/models/", "/health/"])
async def test_a_trailing_slash_is_the_same_route(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/models/load", "/models/unload", "/models/unload-all"]
)
@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b"null", b'{"a": NaN', b"\xff\xfe", b"[" * 100_000], ids=repr
)
async def test_bodies_that_are_no_json_object(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    status, _, message = error(await client.post(path, content=body, headers=JSON))
    assert status == 400
    assert "JSON object" in message


@pytest.mark.parametrize("path", ["/chat/completions", "/models/load", "/models/unload"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"]
)
async def test_bodies_of_another_content_type(client: httpx.AsyncClient, path: str, kind: str) -> None:
    answer = await client.post(path, content=json.dumps(CHAT), headers={"Content-Type": kind})
    status, _, message = error(answer)
    assert status == 400
    assert "application/json" in message


async def test_empty_body(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    assert error(await client.post("/chat/completions"))[0] == 400
    assert error(await client.post("/models/unload"))[0] == 400
    assert workbench.calls == []


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_content_types(client: httpx.AsyncClient, kind: str) -> None:
    answer = await client.post("/models/load", content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == 200


async def test_too_large_a_body(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    workbench.max_body_bytes = 1000
    status, code, message = error(await client.post("/chat/completions", content=b"x" * 1001, headers=JSON))
    assert (status, code) == (413, "request_too_large")
    assert "max_body_bytes" in message
    assert error(await client.post("/chat/completions", content=b"x" * 1000, headers=JSON))[0] == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_the_unexpected(
    client: httpx.AsyncClient, workbench: FakeWorkbench, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    async def fail(report: ProgressCallback) -> None:
        raise ZeroDivisionError("/home/somebody/secret.py")

    workbench.script = fail
    answer = await client.post("/chat/completions", json=CHAT | {"stream": stream})
    status, code, message = error(answer)
    assert (status, code) == (500, "internal_error")
    assert answer.headers["X-Request-Id"] in message
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text
    (record,) = [record for record in caplog.records if record.exc_info and record.levelno == logging.ERROR]
    assert answer.headers["X-Request-Id"] in record.getMessage()
    assert isinstance(record.exc_info[1], ZeroDivisionError)  # type: ignore[index]


async def test_retry_after(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    async def full(report: ProgressCallback) -> None:
        raise QueueFull("256 requests wait for org/tiny. Try again later.", retry_after=7)

    workbench.script = full
    answer = await client.post("/chat/completions", json=CHAT)
    assert error(answer)[:2] == (429, "queue_full")
    assert answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize("given", ["abc-123_X.y", "a" * 128])
async def test_request_ids_come_back(client: httpx.AsyncClient, given: str) -> None:
    for path in ("/models", "/nowhere"):
        answer = await client.get(path, headers={"X-Request-Id": given})
        assert answer.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "x\u00fc".encode("latin-1"), "<script>", "a\tb"])
async def test_request_ids_that_are_not_sane_are_replaced(
    client: httpx.AsyncClient, given: str | bytes
) -> None:
    seen = [
        (await client.get("/models", headers={"X-Request-Id": given})).headers["X-Request-Id"]
        for _ in range(2)
    ]
    assert all(one.startswith("req_") for one in seen)
    assert seen[0] != seen[1]


async def test_jupyters_headers_are_kept(client: httpx.AsyncClient) -> None:
    for path in ("/models", "/nowhere"):
        answer = await client.get(path)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_calls_count_as_activity_and_probes_do_not(
    client: httpx.AsyncClient, jp_serverapp: ServerApp
) -> None:
    settings = jp_serverapp.web_app.settings
    await client.get("/health")
    await client.get("/models", params={"no_track_activity": "1"})
    assert "api_last_activity" not in settings
    await client.get("/models")
    assert "api_last_activity" in settings
