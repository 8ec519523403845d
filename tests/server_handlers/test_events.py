"""`GET /v1/events`, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from samovar_handlers import events
from tests.server_handlers.fakes import FakeWorkbench


async def blocks(answer: httpx.Response) -> AsyncIterator[str]:
    """The parts of a stream between empty lines."""
    text = ""
    async for piece in answer.aiter_text():
        *whole, text = (text + piece).split("\n\n")
        for block in whole:
            yield block


def parsed(block: str) -> dict[str, Any]:
    fields = dict(line.split(": ", 1) for line in block.splitlines())
    return fields | {"data": json.loads(fields["data"])}


async def test_changes_arrive_as_they_happen_and_the_stream_ends_with_the_server(
    client: httpx.AsyncClient, workbench: FakeWorkbench
) -> None:
    async with client.stream("GET", "/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        stream = blocks(answer)
        assert await anext(stream) == ":"  # the connection is there before anything has happened
        workbench.events.publish("queue", {"cache_key": "a", "running": 1, "waiting": 0})
        event = parsed(await anext(stream))
        assert event["event"] == "queue"
        assert event["id"] == str(workbench.events.newest)
        assert event["data"] == {"cache_key": "a", "running": 1, "waiting": 0}
        workbench.events.close()
        assert [block async for block in stream] == []


async def test_a_client_that_comes_back_gets_what_it_missed(
    client: httpx.AsyncClient, workbench: FakeWorkbench
) -> None:
    for number in range(3):
        workbench.events.publish("queue", {"running": number})
    last = workbench.events.newest - 1
    async with client.stream("GET", "/events", headers={"Last-Event-ID": str(last)}) as answer:
        stream = blocks(answer)
        await anext(stream)
        assert parsed(await anext(stream))["data"] == {"running": 2}
    async with client.stream("GET", "/events", headers={"Last-Event-ID": "3"}) as answer:
        stream = blocks(answer)
        await anext(stream)
        first = parsed(await anext(stream))
        assert (first["event"], first["data"]) == ("missed", {"first_held": last - 1})


async def test_a_quiet_stream_is_kept_alive(
    client: httpx.AsyncClient, workbench: FakeWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.01)
    async with client.stream("GET", "/events") as answer:
        stream = blocks(answer)
        assert [await anext(stream) for _ in range(3)] == [":"] * 3


async def test_a_client_that_leaves_is_let_go(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    left = asyncio.Event()
    wait = workbench.events.wait

    async def watched(last: int, timeout: float) -> bool:
        try:
            return await wait(last, timeout)
        except asyncio.CancelledError:
            left.set()
            raise

    workbench.events.wait = watched  # type: ignore[method-assign]
    async with client.stream("GET", "/events") as answer:
        await anext(blocks(answer))
    async with asyncio.timeout(20):
        await left.wait()


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", "9" * 30])
async def test_a_last_event_id_that_is_none(client: httpx.AsyncClient, wrong: str) -> None:
    answer = await client.get("/events", headers={"Last-Event-ID": wrong})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Last-Event-ID"
