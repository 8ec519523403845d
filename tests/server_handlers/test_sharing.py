"""A server that several people use: their turns, and what they see of each other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from samovar_server.protocol.place import PLACE_HEADER
from tests.server_handlers.fakes import Become, FakeWorkbench, FakeWorker

PATH = "/chat/completions"
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
STREAM = CHAT | {"stream": True}
PIECE = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def places(worker: FakeWorker) -> list[dict[str, Any]]:
    return [json.loads(request.headers[PLACE_HEADER]) for request in worker.requests]


async def test_what_is_computed_for_one_user_is_marked_as_his(
    client: httpx.AsyncClient, become: Become, worker: FakeWorker
) -> None:
    for name in ("ada", "bob", "ada"):
        become(name)
        worker.say(b"{}", None)
        await client.post(PATH, json=CHAT)
    salts = [place["salt"] for place in places(worker)]
    assert salts[0] == salts[2] != salts[1]
    assert {len(salt) for salt in salts} == {32}


async def test_an_operator_may_let_users_share_prefixes(
    client: httpx.AsyncClient, become: Become, shared: FakeWorkbench, worker: FakeWorker
) -> None:
    shared.sharing.share_prefixes = True
    become("ada")
    worker.say(b"{}", None)
    await client.post(PATH, json=CHAT)
    assert places(worker) == [{"salt": "", "express": False, "counted": True}]


async def test_on_a_server_of_ones_own_all_prefixes_are_shared(
    client: httpx.AsyncClient, worker: FakeWorker
) -> None:
    worker.say(b"{}", None)
    await client.post(PATH, json=CHAT)
    assert [place["salt"] for place in places(worker)] == [""]


async def test_clients_cannot_say_what_the_server_says(
    client: httpx.AsyncClient, become: Become, worker: FakeWorker
) -> None:
    become("ada")
    worker.say(b"{}", None)
    await client.post(PATH, json=CHAT, headers={PLACE_HEADER: '{"salt": "mine", "express": true}'})
    assert places(worker)[0] != {"salt": "mine", "express": True, "counted": True}
    for field in ("cache_salt", "cache_prompt", "salt"):
        answer = await client.post(PATH, json=CHAT | {field: "mine"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


async def test_token_counts_go_to_the_client_only_when_he_asked_for_them(
    client: httpx.AsyncClient, worker: FakeWorker
) -> None:
    worker.say(PIECE, USAGE + DONE, None, PIECE, USAGE + DONE, None)
    answer = await client.post(PATH, json=STREAM)
    assert answer.content == PIECE + DONE
    answer = await client.post(PATH, json=STREAM | {"stream_options": {"include_usage": True}})
    assert answer.content == PIECE + USAGE + DONE


async def test_turns_go_by_work_and_one_who_has_nothing_running_does_not_wait(
    client: httpx.AsyncClient, become: Become, shared: FakeWorkbench, worker: FakeWorker
) -> None:
    shared.sharing.set_trait("upstream_slots", 1)
    shared.sharing.reserved_slots = 1
    become("ada")
    first, second = [asyncio.create_task(client.post(PATH, json=CHAT)) for _ in range(2)]
    await worker.arrivals.acquire()
    become("bob")
    light = asyncio.create_task(client.post(PATH, json=CHAT))
    await worker.arrivals.acquire()  # beside ada's, and before her second
    assert len(worker.requests) == 2
    worker.say(*[b"{}", None] * 3)
    answers = await asyncio.gather(first, second, light)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(worker.requests) == 3


async def test_who_leaves_while_he_waits_never_reaches_the_worker(
    client: httpx.AsyncClient, become: Become, shared: FakeWorkbench, worker: FakeWorker
) -> None:
    shared.sharing.set_trait("upstream_slots", 1)
    become("ada")
    running = asyncio.create_task(client.post(PATH, json=CHAT))
    await worker.arrivals.acquire()
    leaving = asyncio.create_task(client.post(PATH, json=CHAT))
    await asyncio.wait_for(shared.waits.wait(), 10)
    leaving.cancel()
    await asyncio.wait_for(shared.waits_no_more.wait(), 10)
    worker.say(b"{}", None)
    assert (await running).status_code == 200
    assert len(worker.requests) == 1
