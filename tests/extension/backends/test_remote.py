"""Models of other servers, by a samovar without models in the other server's place."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from traitlets import TraitError

from samovar_server.backends.remote import FRESH_SECONDS, RemoteBackend, parse_remotes
from samovar_server.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    UpstreamFailed,
    UpstreamTimeout,
)
from samovar_server.loader.options import LoadOptions
from samovar_server.relay import Relay
from samovar_server.workbench import Workbench
from tests.fakes.fake_server import MODEL, SECONDS, TOKEN, FakeServer, Reply, error_body

CHAT = "/v1/chat/completions"
ANY = LoadOptions()
BODY = {"model": "lab/big", "messages": [{"role": "user", "content": "hi"}], "ttl": None}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(models=["big", "org/small"]) as server:
        yield server


@pytest.fixture
def workbench(
    server: FakeServer,
    jp_asyncio_loop: asyncio.AbstractEventLoop,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> Iterator[Workbench]:
    monkeypatch.setenv("LAB_KEY", TOKEN)
    for module in ("constants", "utils._cache_manager"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path / "hub"))
    workbench = Workbench(
        model_folders=[str(tmp_path / "models")],
        spare_worker=False,
        remotes={"lab": {"url": server.url, "key_variable": "LAB_KEY", "timeout": 0.5}},
        aliases={"theirs": "lab/org/small"},
    )
    yield workbench
    jp_asyncio_loop.run_until_complete(workbench.stop())


@pytest.fixture
def relay(jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[Relay]:
    relay = Relay()
    yield relay
    jp_asyncio_loop.run_until_complete(relay.close())


async def ask(workbench: Workbench, relay: Relay, model: str = "lab/big", **fields: Any) -> bytes:
    asked = frozenset(fields) - {"stream"}
    async with (
        workbench.acquire(model, ANY, route=CHAT, fields=asked) as lease,
        relay.post(lease, CHAT, json.dumps(BODY | fields).encode()) as answer,
    ):
        return b"".join([chunk async for chunk in answer.chunks()])


async def test_a_request_goes_on_under_the_name_that_the_model_has_there(
    workbench: Workbench, relay: Relay, server: FakeServer
) -> None:
    answer = json.loads(await ask(workbench, relay, temperature=0.5))
    assert answer["choices"][0]["message"]["content"] == "Hello world!"
    await ask(workbench, relay, "theirs")
    first, second = server.asked_at(CHAT)
    assert first == {"model": "big", "messages": BODY["messages"], "temperature": 0.5}
    assert second["model"] == "org/small"
    assert workbench.loaded() == []


async def test_a_stream_passes_untouched(workbench: Workbench, relay: Relay, server: FakeServer) -> None:
    server.enqueue(Reply(pieces=["a", "ж"], comments=["waiting"]))
    stream = (await ask(workbench, relay, stream=True)).decode()
    assert stream.startswith(": waiting\n\n")
    assert json.loads(stream.split("data: ")[2])["choices"][0]["delta"]["content"] == "ж"
    assert stream.endswith("data: [DONE]\n\n")


async def test_its_models_are_listed_and_asked_for_seldom(workbench: Workbench, server: FakeServer) -> None:
    for _ in range(2):
        cards = {card.id: card for card in await workbench.models()}
        assert set(cards) == {"lab/big", "lab/org/small"}
        assert cards["lab/big"].owned_by == "lab"
    assert [asked.path for asked in server.asked] == ["/v1/models"]


async def test_a_server_that_is_not_there_costs_the_list_nothing(caplog: pytest.LogCaptureFixture) -> None:
    remotes = parse_remotes({"gone": {"url": "http://127.0.0.1:9/v1"}})
    backend = RemoteBackend(remotes, logging.getLogger("samovar"))
    assert await backend.models() == []
    assert "remote gone does not list its models (ConnectError)" in caplog.text
    model = backend.find("gone/m")
    assert model is not None
    with pytest.raises(UpstreamFailed, match="remote gone does not list"):
        await backend.load(model, ANY)
    await backend.close()
    assert FRESH_SECONDS > 5


async def test_loading_means_looking_whether_it_is_there(workbench: Workbench) -> None:
    record = await workbench.load("lab/big", ANY)
    assert (record.backend, record.state, record.memory_bytes) == ("remote", "ready", 0)
    assert record.backend_reason == "lab is a server in Workbench.remotes"
    with pytest.raises(ModelNotFound, match=r"lab has no model 'huge'\. It has: lab/big, lab/org/small\."):
        await workbench.load("lab/huge", ANY)


async def test_what_cannot_be_asked_of_another_server_is_refused(
    workbench: Workbench, relay: Relay, server: FakeServer
) -> None:
    for options, param in (
        (LoadOptions(device="cpu"), "device"),
        (LoadOptions(memory_bytes=5), "memory_bytes"),
        (LoadOptions(backend="transformers"), "backend"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await workbench.load("lab/big", options)
        assert caught.value.param == param
    for field in ("ttl", "exact"):
        with pytest.raises(InvalidRequest, match=f"^{field}: "):
            await ask(workbench, relay, **{field: 1})
    assert server.asked == []


async def test_its_refusals_are_typed_and_the_key_is_in_none(
    workbench: Workbench, relay: Relay, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = error_body("context_length_exceeded", "maximum context length is 10", "messages")
    server.enqueue(Reply(error=told, status=400))
    with pytest.raises(ContextLengthExceeded, match="remote lab: maximum context") as caught:
        await ask(workbench, relay, stream=True)
    assert caught.value.param == "messages"
    monkeypatch.setenv("LAB_KEY", "wrong-key")
    with pytest.raises(UpstreamFailed, match="refuses this server's credentials") as refused:
        await ask(workbench, relay)
    async with workbench.acquire("lab/big", ANY) as lease:
        assert "wrong-key" not in f"{refused.value.message} {lease!r}"


async def test_a_broken_stream_and_a_silent_one(
    workbench: Workbench, relay: Relay, server: FakeServer
) -> None:
    server.enqueue(Reply(drop_after=1), Reply(hang_after=1))
    with pytest.raises(UpstreamFailed, match="lab/big: the connection to its server failed"):
        await ask(workbench, relay, stream=True)
    with pytest.raises(UpstreamTimeout, match=r"silent for 0\.5 s"):
        await ask(workbench, relay, stream=True)
    assert await asyncio.to_thread(server.disconnected.wait, SECONDS)


async def test_a_client_that_goes_away_is_told_of(
    workbench: Workbench, relay: Relay, server: FakeServer
) -> None:
    server.enqueue(Reply(hang_after=1))
    task = asyncio.create_task(ask(workbench, relay, stream=True))
    assert await asyncio.to_thread(server.hanging.wait, SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.disconnected.wait, SECONDS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lab": {}}, "lab.url: Field required"),
        ({"lab": {"url": "host/v1"}}, "lab.url"),
        ({"lab": {"url": "http://user:pass@host/v1"}}, "lab.url"),
        ({"lab": {"url": "http://host/v1", "key": "sk"}}, "lab.key: Extra inputs"),
        ({"lab": {"url": "http://host/v1", "timeout": 0}}, "lab.timeout"),
        ({"a/b": {"url": "http://host/v1"}}, "a/b"),
    ],
)
def test_a_wrong_setting_is_told_when_it_is_read(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(TraitError, match=f"remotes: {message}"):
        Workbench(remotes=setting)


def test_only_a_known_name_before_the_slash_is_a_remotes() -> None:
    backend = RemoteBackend(parse_remotes({"lab": {"url": "http://host/v1"}}), logging.getLogger())
    assert backend.find("lab") is backend.find("org/m") is backend.find("lab/") is None
    assert backend.find(f"lab/{MODEL}") is not None
