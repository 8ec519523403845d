"""Who may do what on a server of many, and what each sees of the others."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from tests.server_handlers.fake_downloads import FakeProcess, fake_downloads
from tests.server_handlers.fakes import Become, FakeWorkbench, FakeWorker

PATH = "/chat/completions"
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
ANSWER = b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}'


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    return {
        "ServerApp": {"jpserver_extensions": {"samovar_server": True}},
        "Sharing": {
            "limits": {
                "*": {"requests": 1, "tokens_per_day": 20},
                "group:class": {"requests": 2},
                "user:admin": {"requests": None, "tokens_per_day": None},
            },
            "roles": {"download": ["user:dora", "user:dan"]},
            "contact": "it@school.example",
        },
    }


MANAGEMENT: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/models/load", {"model": "tiny", "pin": True}),
    ("POST", "/models/load", {"model": "tiny", "ttl": 0}),
    ("POST", PATH, CHAT | {"ttl": 0}),
    ("POST", "/models/unload", {"model": "tiny"}),
    ("POST", "/models/unload-all", None),
    ("POST", "/models/clean", {"dry_run": True}),
    ("DELETE", "/models/org/tiny", None),
    ("POST", "/models/download", {"url": "org/a"}),
    ("POST", "/models/download/some/resume", None),
    ("POST", "/models/verify-repo", {"url": "org/a"}),
    ("GET", "/models/search?q=a", None),
]


@pytest.mark.parametrize(("method", "path", "body"), MANAGEMENT, ids=lambda value: str(value))
async def test_what_admins_manage_is_refused_to_others_with_whom_to_ask(
    client: httpx.AsyncClient,
    become: Become,
    shared: FakeWorkbench,
    method: str,
    path: str,
    body: dict[str, Any] | None,
) -> None:
    become("ada")
    answer = await client.request(method, path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (403, "permission_denied")
    assert error["message"].endswith("Ask it@school.example.")
    assert shared.calls == []


async def test_all_may_generate_and_load_and_admins_manage(
    client: httpx.AsyncClient, become: Become, worker: FakeWorker
) -> None:
    become("ada")
    worker.say(ANSWER, None)
    assert (await client.post(PATH, json=CHAT)).status_code == 200
    assert (await client.post("/models/load", json={"model": "tiny"})).status_code == 200
    become("admin")
    assert (await client.post("/models/load", json={"model": "tiny", "pin": True})).status_code == 200
    assert (await client.post("/models/unload-all")).status_code == 200


async def test_requests_at_the_same_time_are_limited_for_each_user(
    client: httpx.AsyncClient, become: Become, worker: FakeWorker
) -> None:
    become("ada")
    running = [asyncio.create_task(client.post(PATH, json=CHAT)) for _ in range(2)]
    for _ in running:
        await worker.arrivals.acquire()
    refused = await client.post(PATH, json=CHAT | {"stream": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert int(refused.headers["Retry-After"]) > 0
    assert "it@school.example" in refused.json()["error"]["message"]
    become("bob")
    other = asyncio.create_task(client.post(PATH, json=CHAT))
    await worker.arrivals.acquire()
    worker.say(*[ANSWER, None] * 3)
    assert [(await task).status_code for task in (*running, other)] == [200] * 3


async def test_a_days_tokens_are_limited_and_each_sees_his_own_use(
    client: httpx.AsyncClient, become: Become, worker: FakeWorker
) -> None:
    become("ada")
    for _ in range(2):
        worker.say(ANSWER, None)
        assert (await client.post(PATH, json=CHAT)).status_code == 200
    refused = await client.post(PATH, json=CHAT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert 23 * 3600 <= int(refused.headers["Retry-After"]) <= 24 * 3600
    become("bob")
    worker.say(ANSWER, None)
    assert (await client.post(PATH, json=CHAT)).status_code == 200
    used = (await client.get("/usage")).json()
    counts = {"requests": 1, "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert used["data"] == [{"user": "bob", "model": "org/tiny", **counts, "day": counts}]
    assert used["limits"] == {"requests": 2, "tokens_per_day": 20, "models": None}
    become("admin")
    told = (await client.get("/usage")).json()["data"]
    assert {(line["user"], line["total_tokens"]) for line in told} == {("ada", 20), ("bob", 10)}


@pytest.mark.parametrize("by_user", [False, True])
async def test_prometheus_is_told_of_models_and_of_users_only_on_demand(
    client: httpx.AsyncClient, become: Become, shared: FakeWorkbench, worker: FakeWorker, by_user: bool
) -> None:
    shared.sharing.metrics_by_user = by_user

    def counted(user: str) -> float:
        labels = {"model": "org/tiny", "user": user, "kind": "completion"}
        return REGISTRY.get_sample_value("samovar_usage_tokens_total", labels) or 0.0

    become("mina")
    before = {user: counted(user) for user in ("", "mina")}
    worker.say(ANSWER, None)
    await client.post(PATH, json=CHAT)
    added = {user: counted(user) - before[user] for user in before}
    assert added == ({"": 0, "mina": 3} if by_user else {"": 3, "mina": 0})


@pytest.fixture
def downloads(jp_asyncio_loop: Any, shared: FakeWorkbench, tmp_path: Path) -> Iterator[list[FakeProcess]]:
    async def start() -> list[FakeProcess]:
        return fake_downloads(shared, tmp_path)

    yield jp_asyncio_loop.run_until_complete(start())
    jp_asyncio_loop.run_until_complete(shared.downloads.jobs.stop())


async def seen(client: httpx.AsyncClient) -> list[str]:
    return [job["url"] for job in (await client.get("/models/download")).json()["downloads"]]


async def test_downloads_are_seen_by_those_who_asked_for_them_and_by_admins(
    client: httpx.AsyncClient, become: Become, downloads: list[FakeProcess]
) -> None:
    become("dora")
    job = (await client.post("/models/download", json={"url": "org/secret"})).json()
    assert "dora" not in json.dumps(job)
    one = f"/models/download/{job['job_id']}"
    become("dan")
    assert await seen(client) == []
    for method in ("GET", "DELETE"):
        answer = await client.request(method, one)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "download_not_found")
    assert (await client.post(f"{one}/resume")).status_code == 404
    for name in ("admin", "dora"):
        become(name)
        assert await seen(client) == ["org/secret"]
        assert (await client.get(one)).status_code == 200
    assert (await client.delete(one)).json()["status"] == "cancelled"


async def test_who_asks_for_the_same_joins_and_cannot_take_it_from_the_other(
    client: httpx.AsyncClient, become: Become, downloads: list[FakeProcess]
) -> None:
    ids = set()
    for name in ("dora", "dan"):
        become(name)
        ids.add((await client.post("/models/download", json={"url": "org/a"})).json()["job_id"])
        assert await seen(client) == ["org/a"]
    (job_id,) = ids
    assert (await client.delete(f"/models/download/{job_id}")).status_code == 409
    become("admin")
    assert (await client.delete(f"/models/download/{job_id}")).json()["status"] == "cancelled"


async def test_events_tell_of_ones_own_downloads_only(
    client: httpx.AsyncClient, become: Become, shared: FakeWorkbench, downloads: list[FakeProcess]
) -> None:
    become("dora")
    await client.post("/models/download", json={"url": "org/secret"})
    shared.events.publish("queue", {"cache_key": "a", "running": 0, "waiting": 0})
    for name, hears in (("dora", True), ("dan", False), ("admin", True)):
        become(name)
        text = ""
        async with client.stream("GET", "/events", headers={"Last-Event-ID": "1"}) as answer:
            pieces = answer.aiter_text()
            while "event: queue" not in text:
                text += await anext(pieces)
        assert ("org/secret" in text) is hears


async def test_no_prompt_and_no_answer_reaches_the_log(
    client: httpx.AsyncClient, become: Become, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    become("admin")
    prompt, reply = "PROMPT-5b1c", "REPLY-77aa"
    body = CHAT | {"messages": [{"role": "user", "content": prompt}]}
    for stream in (False, True):
        worker.say(json.dumps({"choices": [{"text": reply}]}).encode(), None)
        answer = await client.post(PATH, json=body | {"stream": stream})
        assert reply in answer.text
    worker.say(b"half of " + reply.encode(), ConnectionError)
    await client.post(PATH, json=body | {"stream": True})
    await client.post(PATH, json=body | {"temperature": prompt})  # quoted in the refusal
    await client.post(PATH, content=prompt.encode(), headers={"Content-Type": "application/json"})
    assert "/v1/chat/completions" in caplog.text
    ours = [record for record in caplog.records if not record.name.startswith(("http", "asyncio"))]
    logged = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in ours)
    assert prompt not in logged
    assert reply not in logged
