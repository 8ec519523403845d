"""POST /v1/chat/completions: bytes pass through, waiting shows, failures and farewells are prompt."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tornado.testing import bind_unused_port

from samovar_handlers import sse
from samovar_server.errors import InsufficientMemory, LoadFailed
from samovar_server.loader.options import LoadOptions, LoadProgress, ProgressCallback
from tests.server_handlers.fakes import SECRET, WEIGHTS, FakeWorkbench, FakeWorker

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
STREAM = CHAT | {"stream": True}
PATH = "/chat/completions"
ONE, TWO, DONE = b'data: {"n": 1}\n\n', 'data: {"n": "zwei ü"}\n\n'.encode(), b"data: [DONE]\n\n"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No grace, and a sign of life every few milliseconds of silence."""
    monkeypatch.setattr(sse, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.01)


@asynccontextmanager
async def opened(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[bytes]]:
    async with client.stream("POST", PATH, json=STREAM) as answer:
        assert answer.status_code == 200
        yield answer.aiter_raw()


async def read_until(chunks: AsyncIterator[bytes], wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += await anext(chunks)
    return seen


def last_error(text: str) -> dict[str, Any]:
    """The error that ends a stream; asserts that nothing comes after it."""
    *_, last = [block for block in text.split("\n\n") if block]
    error: dict[str, Any] = json.loads(last.removeprefix("data: "))["error"]
    return error


async def test_stream_passes_the_workers_bytes(
    client: httpx.AsyncClient, worker: FakeWorker, workbench: FakeWorkbench
) -> None:
    worker.say(ONE, TWO + DONE, None)
    body = json.dumps(STREAM | {"ttl": 9, "dtype": "float32"}, indent=1).encode()
    answer = await client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.content == ONE + TWO + DONE
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    (request,) = worker.requests
    assert request.body == body
    assert request.headers["Authorization"] == f"Bearer {SECRET}"
    assert workbench.calls == [{"model": "tiny", "options": LoadOptions(dtype="float32"), "ttl": 9}]
    assert workbench.held == 0


async def test_events_pass_as_they_come(client: httpx.AsyncClient, worker: FakeWorker) -> None:
    worker.say(ONE)
    async with opened(client) as chunks:
        assert await read_until(chunks, ONE) == ONE
        worker.say(TWO)
        assert await read_until(chunks, TWO) == TWO
        worker.say(DONE, None)
        assert await read_until(chunks, DONE) == DONE


async def test_an_event_cut_by_the_network_is_passed_whole(
    client: httpx.AsyncClient, worker: FakeWorker
) -> None:
    stream = ONE + TWO + DONE
    worker.say(*(stream[at : at + 1] for at in range(len(stream))), None)
    async with opened(client) as chunks:
        seen = [chunk async for chunk in chunks]
    assert b"".join(seen) == stream
    assert all(chunk.endswith(b"\n\n") for chunk in seen)


@pytest.mark.parametrize("status", [200, 400, 429])
async def test_whole_answers_pass_with_their_status(
    client: httpx.AsyncClient, worker: FakeWorker, workbench: FakeWorkbench, status: int
) -> None:
    worker.status, worker.headers = status, {"Retry-After": "3"}
    worker.say(b'{"any": ', b'"thing"}', None)
    answer = await client.post(PATH, json=CHAT)
    assert (answer.status_code, answer.content) == (status, b'{"any": "thing"}')
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Retry-After"] == "3"
    assert workbench.held == 0


async def test_a_worker_that_refuses_at_once_keeps_its_status_in_a_stream(
    client: httpx.AsyncClient, worker: FakeWorker
) -> None:
    worker.status = 400
    worker.say(b'{"error": {"code": "context_length_exceeded"}}', None)
    answer = await client.post(PATH, json=STREAM)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.usefixtures("impatient")
async def test_a_worker_that_refuses_late_ends_the_stream_with_its_error(
    client: httpx.AsyncClient, worker: FakeWorker, workbench: FakeWorkbench
) -> None:
    loaded = asyncio.Event()
    workbench.script = lambda report: loaded.wait()  # type: ignore[assignment,return-value]
    worker.status = 429
    worker.say(b'{"error": {"code": "queue_full"}}', None)
    async with opened(client) as chunks:
        head = await anext(chunks)
        loaded.set()
        text = (head + b"".join([chunk async for chunk in chunks])).decode()
    assert last_error(text)["code"] == "queue_full"


@pytest.mark.usefixtures("impatient")
async def test_the_progress_of_a_load_shows_as_comments(
    client: httpx.AsyncClient, worker: FakeWorker, workbench: FakeWorkbench
) -> None:
    steps: asyncio.Queue[LoadProgress | None] = asyncio.Queue()

    async def load(report: ProgressCallback) -> None:
        while (step := await steps.get()) is not None:
            report(step)

    workbench.script = load
    async with opened(client) as chunks:
        await read_until(chunks, b": waiting\n\n")
        steps.put_nowait(WEIGHTS)
        await read_until(chunks, b": loading 43%\n\n")
        await read_until(chunks, b": loading 43%\n\n")  # silence is filled
        steps.put_nowait(LoadProgress("warmup", 0.9))
        await read_until(chunks, b": loading 90%\n\n")
        steps.put_nowait(None)
        await asyncio.wait_for(worker.asked.wait(), 10)
        await read_until(chunks, b": waiting\n\n")
        worker.say(ONE, DONE, None)
        rest = b"".join([chunk async for chunk in chunks])
    assert rest.replace(b": waiting\n\n", b"") == ONE + DONE


async def test_a_load_shows_nothing_in_the_grace_period(
    client: httpx.AsyncClient, worker: FakeWorker, workbench: FakeWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "GRACE_SECONDS", 1000)

    async def load(report: ProgressCallback) -> None:
        report(WEIGHTS)

    workbench.script = load
    worker.say(ONE + DONE, None)
    assert (await client.post(PATH, json=STREAM)).content == ONE + DONE


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_quick_failure_has_its_status(
    client: httpx.AsyncClient, workbench: FakeWorkbench, body: dict[str, Any]
) -> None:
    async def fail(report: ProgressCallback) -> None:
        report(WEIGHTS)
        raise InsufficientMemory("Needs more.")

    workbench.script = fail
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 507
    assert answer.json()["error"]["code"] == "insufficient_memory"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("failure", "code"),
    [(LoadFailed("No such weights."), "model_load_failed"), (KeyError(), "internal_error")],
)
async def test_a_late_failure_is_the_last_event(
    client: httpx.AsyncClient, workbench: FakeWorkbench, failure: Exception, code: str
) -> None:
    go = asyncio.Event()

    async def fail(report: ProgressCallback) -> None:
        await go.wait()
        raise failure

    workbench.script = fail
    async with client.stream("POST", PATH, json=STREAM) as answer:
        chunks = answer.aiter_raw()
        head = await anext(chunks)
        go.set()
        text = (head + b"".join([chunk async for chunk in chunks])).decode()
    error = last_error(text)
    assert error["code"] == code
    if code == "internal_error":
        assert answer.headers["X-Request-Id"] in error["message"]


async def test_a_crash_in_a_stream_is_the_last_event(
    client: httpx.AsyncClient, worker: FakeWorker, workbench: FakeWorkbench
) -> None:
    worker.say(ONE)
    async with opened(client) as chunks:
        await read_until(chunks, ONE)
        worker.say(b'data: {"half', ConnectionError)
        text = b"".join([chunk async for chunk in chunks]).decode()
    assert last_error(text)["code"] == "model_crashed"
    assert "half" not in text
    assert workbench.held == 0


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("start", [[], [b'{"half']], ids=["at once", "in the body"])
async def test_a_crash_before_the_answer_has_its_status(
    client: httpx.AsyncClient, worker: FakeWorker, body: dict[str, Any], start: list[bytes]
) -> None:
    worker.say(*start, ConnectionError)
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "model_crashed"


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_worker_that_is_gone(
    client: httpx.AsyncClient, workbench: FakeWorkbench, body: dict[str, Any]
) -> None:
    sock, port = bind_unused_port()
    sock.close()
    workbench.worker_url = f"http://127.0.0.1:{port}"
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "model_crashed"


async def leave(client: httpx.AsyncClient, body: dict[str, Any], when: asyncio.Event) -> None:
    """Send a request and close its connection as soon as `when` is set."""
    request = asyncio.create_task(client.post(PATH, json=body))
    await when.wait()
    request.cancel()
    await asyncio.wait({request})


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_client_that_leaves_while_the_model_loads(
    client: httpx.AsyncClient, workbench: FakeWorkbench, worker: FakeWorker, body: dict[str, Any]
) -> None:
    loading = asyncio.Event()

    async def load(report: ProgressCallback) -> None:
        loading.set()
        await asyncio.Event().wait()

    workbench.script = load
    await leave(client, body, loading)
    await asyncio.wait_for(workbench.abandoned.wait(), 10)
    assert worker.requests == []


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_client_that_leaves_before_the_first_token(
    client: httpx.AsyncClient, workbench: FakeWorkbench, worker: FakeWorker, body: dict[str, Any]
) -> None:
    await leave(client, body, worker.asked)
    await asyncio.wait_for(worker.left.wait(), 10)
    assert workbench.held == 0


async def test_a_client_that_leaves_in_the_middle(
    client: httpx.AsyncClient,
    workbench: FakeWorkbench,
    worker: FakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker.say(ONE)
    async with opened(client) as chunks:
        await read_until(chunks, ONE)
    await asyncio.wait_for(worker.left.wait(), 10)
    assert workbench.held == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"temperature": -1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"backend": "nonsense"}, "backend"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_bad_request_never_reaches_a_model(
    client: httpx.AsyncClient, workbench: FakeWorkbench, extra: dict[str, Any], param: str
) -> None:
    answer = await client.post(PATH, json=CHAT | extra)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert workbench.calls == []
