"""The whole way of a request with the unmodified `openai` client, a real workbench and real processes.

Only the engine is missing: the worker is the fake one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from jupyter_server.serverapp import ServerApp

from samovar_handlers.base import Services
from samovar_server.loader.options import LoadOptions
from samovar_server.workbench import Workbench
from tests.fakes.models import FAKE_WORKER, FakeScript, write_model

MODEL = "org/m"
MESSAGES: Any = [{"role": "user", "content": "one two three"}]
REPLY = "one two three"
PATIENCE = 30.0
BUDGET = 2 * 10**9


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, and an empty Hugging Face cache."""
    for module in ("constants", "utils._cache_manager"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "models"


@pytest.fixture
def jp_server_config(folder: Path) -> dict[str, Any]:
    return {
        "ServerApp": {"jpserver_extensions": {"samovar_server": True}},
        "Workbench": {
            "model_folders": [str(folder)],
            "aliases": {"demo": MODEL},
            "worker_command": FAKE_WORKER,
            "spare_worker": False,
            "cpu_memory_budget": BUDGET,
        },
    }


@pytest.fixture
def workbench(services: Services) -> Workbench:
    """The real one, in the place of the fake one."""
    return services.workbench


@pytest.fixture
def ai(base_url: str, jp_serverapp: ServerApp) -> Iterator[openai.OpenAI]:
    """OpenAI's own client with Jupyter's token; it is synchronous, so call it in a thread."""
    token = jp_serverapp.identity_provider.token
    with openai.OpenAI(base_url=base_url, api_key=token, max_retries=0, timeout=PATIENCE) as client:
        yield client


async def fails(call: Callable[[], Any]) -> openai.APIError:
    with pytest.raises(openai.APIError) as caught:
        await asyncio.to_thread(call)
    return caught.value


@asynccontextmanager
async def chat(client: httpx.AsyncClient, **more: Any) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream."""
    body = {"messages": MESSAGES, "stream": True, **more}
    async with client.stream("POST", "/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        yield answer.aiter_lines()


async def until(lines: AsyncIterator[str], wanted: str) -> str:
    async with asyncio.timeout(PATIENCE):
        async for line in lines:
            if wanted in line:
                return line
    raise AssertionError(f"the stream ended without {wanted!r}")


async def worker_running(workbench: Workbench, wanted: int) -> dict[str, Any]:
    """The worker's status as soon as it runs `wanted` requests. It has no way to call us, so we ask."""
    async with (
        asyncio.timeout(PATIENCE),
        workbench.acquire(MODEL, LoadOptions()) as lease,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {lease.secret}"}) as client,
    ):
        while True:
            status: dict[str, Any] = (await client.get(f"{lease.url}/status")).json()
            if status["running"] == wanted:
                return status


async def test_openai_client_whole(ai: openai.OpenAI, folder: Path) -> None:
    write_model(folder, MODEL)
    answer = await asyncio.to_thread(
        lambda: ai.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0)
    )
    assert answer.choices[0].message.content == REPLY
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6
    assert answer._request_id is not None


async def test_openai_client_stream(ai: openai.OpenAI, folder: Path) -> None:
    write_model(folder, MODEL, FakeScript(load_seconds=1.2))  # so that comments are on the way

    def ask() -> list[Any]:
        options: Any = {"include_usage": True}
        return list(
            ai.chat.completions.create(
                model="demo", messages=MESSAGES, stream=True, stream_options=options, max_tokens=2
            )
        )

    *chunks, usage = await asyncio.to_thread(ask)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert usage.usage.completion_tokens == 2


async def test_openai_client_samovars_own_fields(
    ai: openai.OpenAI, folder: Path, workbench: Workbench
) -> None:
    write_model(folder, MODEL)
    await asyncio.to_thread(
        lambda: ai.chat.completions.create(
            model=MODEL, messages=MESSAGES, extra_body={"ttl": 7, "context_length": 64}
        )
    )
    (resident,) = workbench.loaded()
    assert (resident.ttl, resident.context_length) == (7, 64)


async def test_openai_client_models(ai: openai.OpenAI, folder: Path) -> None:
    write_model(folder, MODEL)
    write_model(folder, "other")
    assert [model.id for model in await asyncio.to_thread(lambda: list(ai.models.list()))] == [MODEL, "other"]
    for name in (MODEL, "demo"):
        model = await asyncio.to_thread(ai.models.retrieve, name)
        assert (model.id, model.owned_by) == (MODEL, "org")


async def test_openai_client_sees_typed_errors(ai: openai.OpenAI, folder: Path) -> None:
    def create(**given: Any) -> Callable[[], Any]:
        return lambda: ai.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **given})

    write_model(folder, MODEL)
    error = await fails(create(model="org/unknown"))
    assert (type(error), error.code) == (openai.NotFoundError, "model_not_found")
    error = await fails(lambda: ai.models.retrieve("org/unknown"))
    assert (type(error), error.code) == (openai.NotFoundError, "model_not_found")
    error = await fails(create(model="../../etc"))
    assert type(error) is openai.BadRequestError
    error = await fails(create(temperature=-1))
    assert (type(error), error.param) == (openai.BadRequestError, "temperature")
    error = await fails(lambda: ai.moderations.create(input="x"))
    assert (type(error), error.code) == (openai.NotFoundError, "not_found")
    stranger = ai.with_options(api_key="wrong")
    for call in (
        stranger.models.list,
        lambda: stranger.chat.completions.create(model="m", messages=MESSAGES),
    ):
        error = await fails(call)
        assert (type(error), error.code) == (openai.AuthenticationError, "invalid_api_key")
    stranger.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_load_that_fails_says_why(ai: openai.OpenAI, folder: Path, stream: bool) -> None:
    write_model(folder, MODEL, FakeScript(fail="The weights are for another architecture."))
    error = await fails(
        lambda: list(ai.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream))
    )
    assert error.code == "model_load_failed"
    assert "another architecture" in error.message


async def test_a_load_that_the_system_kills_for_memory_says_so(
    client: httpx.AsyncClient, folder: Path
) -> None:
    write_model(folder, MODEL, FakeScript(crash_while_loading=True))
    answer = await client.post("/models/load", json={"model": MODEL})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (507, "insufficient_memory")
    assert "memory runs out). Unload other models" in error["message"]
    (shown,) = (await client.get("/models/loaded")).json()["loaded_models"]
    assert (shown["state"], shown["error"]) == ("failed", error["message"])


async def test_a_crash_in_a_stream_is_a_typed_error_and_the_next_request_works(
    ai: openai.OpenAI, folder: Path
) -> None:
    write_model(folder, MODEL, FakeScript(crash_after_tokens=2))
    pieces: list[str] = []

    def ask() -> None:
        chunks = ai.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        pieces.extend(chunk.choices[0].delta.content or "" for chunk in chunks)

    error = await fails(ask)
    assert error.code == "model_crashed"
    assert "".join(pieces) == "one two"
    error = await fails(lambda: ai.chat.completions.create(model=MODEL, messages=MESSAGES))
    assert (type(error), error.code) == (openai.InternalServerError, "model_crashed")
    write_model(folder, MODEL)
    pieces.clear()
    await asyncio.to_thread(ask)
    assert "".join(pieces) == REPLY


async def test_evictions_are_told_to_the_request_that_caused_them(
    client: httpx.AsyncClient, folder: Path
) -> None:
    write_model(folder, MODEL)
    write_model(folder, "large", FakeScript(memory_bytes=BUDGET))
    write_model(folder, "slow", FakeScript(load_seconds=1.0))
    all_of_it: dict[str, Any] = {"messages": MESSAGES, "memory_bytes": BUDGET}
    first = await client.post("/chat/completions", json={"model": MODEL, "messages": MESSAGES})
    assert "X-Samovar-Evicted" not in first.headers
    estimate = (await client.post("/models/estimate", json={"model": "large", "memory_bytes": BUDGET})).json()
    second = await client.post("/chat/completions", json=all_of_it | {"model": "large"})
    assert second.headers["X-Samovar-Evicted"].startswith("org/m|transformers|cpu|float32|none|256")
    assert estimate["would_evict"] == [second.headers["X-Samovar-Evicted"]]
    again = await client.post("/chat/completions", json=all_of_it | {"model": "large"})
    assert "X-Samovar-Evicted" not in again.headers
    async with chat(client, model="slow", memory_bytes=BUDGET) as lines:  # the header is out before the end
        assert "large|" in await until(lines, ": evicted ")
    loaded = (await client.post("/models/load", json={"model": MODEL, "memory_bytes": BUDGET})).json()
    assert [key.partition("|")[0] for key in loaded["evicted"]] == ["slow"]


async def test_the_caches_log_says_for_which_request_it_loaded_and_evicted(
    client: httpx.AsyncClient, folder: Path, workbench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name, ttl in (("first", PATIENCE), ("second", 0.01)):  # the first must stay until it is evicted
        write_model(folder, name)
        body = {"model": name, "memory_bytes": BUDGET, "ttl": ttl}
        headers = {"X-Request-Id": f"ask-{name}"}
        assert (await client.post("/models/load", json=body, headers=headers)).status_code == 200
    lines = [record for record in caplog.records if record.name.endswith(".samovar")]
    told = [(record.getMessage().partition(" ")[0], getattr(record, "request_id", None)) for record in lines]
    assert told[:5] == [
        ("loading", "ask-first"),
        ("loaded", "ask-first"),
        ("loading", "ask-second"),
        ("evicting", "ask-second"),
        ("loaded", "ask-second"),
    ]
    assert lines[0].getMessage().endswith("(ask-first)")

    def expired() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.getMessage().startswith("unloading second")]

    async with asyncio.timeout(PATIENCE):
        while not expired():
            await workbench.events.wait(workbench.events.newest, timeout=PATIENCE)
    assert not hasattr(expired()[0], "request_id")  # it was nobody's wish


async def test_prometheus_sees_it_in_jupyters_metrics(client: httpx.AsyncClient, folder: Path) -> None:
    write_model(folder, "counted")
    async with chat(client, model="counted") as lines:
        await until(lines, "data: [DONE]")
    text = (await client.get(str(client.base_url).replace("/v1/", "/metrics"))).text
    assert 'samovar_loads_total{model="counted"} 1.0' in text
    assert 'samovar_time_to_first_token_seconds_count{model="counted"} 1.0' in text
    assert "one two three" not in text


async def test_a_cold_stream_shows_the_load(
    client: httpx.AsyncClient, folder: Path, workbench: Workbench
) -> None:
    write_model(folder, MODEL, FakeScript(load_seconds=2.0))
    async with chat(client) as lines:
        await until(lines, ": loading ")
        await until(lines, '"content": "one"')
        await until(lines, "data: [DONE]")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(
    client: httpx.AsyncClient, folder: Path, workbench: Workbench, stream: bool
) -> None:
    write_model(folder, MODEL, FakeScript(hang_after_tokens=1))
    if stream:
        async with chat(client) as lines:
            await until(lines, '"content": "one"')
    else:
        await workbench.load(MODEL, LoadOptions())
        request = asyncio.create_task(client.post("/chat/completions", json={"messages": MESSAGES}))
        await worker_running(workbench, 1)
        request.cancel()
    assert (await worker_running(workbench, 0))["aborted"] == 1
    assert workbench.loaded()[0].in_flight == 0


async def test_unload_now_ends_a_stream_with_a_typed_error(client: httpx.AsyncClient, folder: Path) -> None:
    write_model(folder, MODEL, FakeScript(hang_after_tokens=1))
    async with chat(client) as lines:
        await until(lines, '"content": "one"')
        answer = await client.post("/models/unload", json={"model": "demo", "mode": "now"})
        assert [entry["model"] for entry in answer.json()["unloaded_models"]] == [MODEL]
        line = await until(lines, "error")
    assert json.loads(line.removeprefix("data: "))["error"]["code"] == "model_unloaded"
    assert (await client.get("/models/loaded")).json() == {"loaded_models": [], "total_count": 0}
    answer = await client.post("/models/unload", json={"model": MODEL})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_streams_run_side_by_side(
    client: httpx.AsyncClient, folder: Path, workbench: Workbench
) -> None:
    write_model(folder, MODEL, FakeScript(token_seconds=0.05))

    async def ask(words: str) -> str:
        body = {"messages": [{"role": "user", "content": words}]}
        answer = await client.post("/chat/completions", json=body)
        content: str = answer.json()["choices"][0]["message"]["content"]
        return content

    questions = [f"question number {number}" for number in range(8)]
    assert await asyncio.gather(*map(ask, questions)) == questions
    stats = (await client.get("/models/stats")).json()
    assert (stats["total_requests_served"], stats["total_models_loaded"]) == (8, 1)
    (engine,) = stats["engines"]
    assert (engine["running"], engine["prompt_tokens"], engine["generated_tokens"]) == (0, 24, 24)


async def test_load_streams_its_progress(client: httpx.AsyncClient, folder: Path) -> None:
    write_model(folder, MODEL, FakeScript(load_seconds=2.0))
    answer = await client.post(
        "/models/load", json={"model": MODEL, "stream": True, "pin": True}, timeout=PATIENCE
    )
    blocks = [block for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    *events, done = [block.removeprefix("data: ") for block in blocks]
    assert done == "[DONE]"
    *steps, entry = map(json.loads, events)
    assert steps
    assert all(step.keys() == {"phase", "fraction", "bytes_done", "bytes_total"} for step in steps)
    assert [step["fraction"] for step in steps] == sorted(step["fraction"] for step in steps)
    assert (entry["state"], entry["model"], entry["pinned"]) == ("ready", MODEL, True)
    assert (await client.get("/models/loaded")).json()["loaded_models"][0]["cache_key"] == entry["cache_key"]
    assert (await client.get("/models")).json()["data"][0]["loaded"] is True
