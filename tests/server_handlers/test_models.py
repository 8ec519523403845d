"""The routes about models, on a workbench that only remembers what it was asked."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from samovar_server.errors import InsufficientMemory, ModelNotFound
from samovar_server.loader.options import LoadOptions, ProgressCallback
from samovar_server.workbench import ModelCard
from tests.server_handlers.fakes import MODEL, FakeWorkbench

ENTRY = {
    "cache_key", "model_path", "backend", "device", "dtype", "quantization", "state", "memory_bytes",
    "in_flight", "queued", "pinned", "loaded_at", "last_used", "expires_at", "ttl", "ttl_remaining",
    "context_length",
}  # fmt: skip
STATS = {
    "total_models_loaded", "active_models", "total_requests_served", "cache_hits", "cache_misses", "hit_rate",
    "evictions", "estimated_gpu_memory_mb", "estimated_cpu_memory_mb", "memory",
}  # fmt: skip
TINY = {"id": "org/tiny", "object": "model", "created": 1, "owned_by": "org", "loaded": True}


async def test_list(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    assert (await client.get("/models")).json() == {"object": "list", "data": [TINY]}


@pytest.mark.parametrize("path", ["org/tiny", "org%2Ftiny", "small"])
async def test_one(client: httpx.AsyncClient, workbench: FakeWorkbench, path: str) -> None:
    workbench.aliases = {"small": "org/tiny"}
    assert (await client.get(f"/models/{path}")).json() == TINY


async def test_one_with_colon_and_revision(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    workbench.cards = [ModelCard("org/a@main:Q4_K_M", 1, "org", "/m", loaded=False)]
    assert (await client.get("/models/org/a@main:Q4_K_M")).json()["id"] == "org/a@main:Q4_K_M"


async def test_one_that_is_not_there(client: httpx.AsyncClient) -> None:
    answer = await client.get("/models/org/other")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "samovar pull org/other" in answer.json()["error"]["message"]


async def test_loaded(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/models/loaded")).json()
    assert answer["total_count"] == 1
    assert answer["loaded_models"][0].keys() >= ENTRY


async def test_stats(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/models/stats")).json()
    assert answer.keys() == STATS | {"engines"}
    assert answer["memory"][0].keys() == {
        "device", "total_bytes", "free_bytes", "budget_bytes", "used_bytes"
    }  # fmt: skip


async def test_load(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    body = {"model": "small", "dtype": "float32", "context_length": 64, "ttl": 9, "pin": True}
    answer = await client.post("/models/load", json=body)
    assert answer.status_code == 200
    assert answer.json().keys() >= ENTRY
    assert answer.json()["pinned"] is True
    options = LoadOptions(dtype="float32", context_length=64)
    assert workbench.calls == [{"model": "small", "options": options, "ttl": 9, "pin": True}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"modell": "x"}, "modell"),
        ({"pin": "yes"}, "pin"),
        ({"ttl": -0.5}, "ttl"),
        ({"device": "tpu"}, "device"),
        ({"dtype": "int3"}, "dtype"),
        ({"context_length": 0}, "context_length"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
    ],
)
async def test_load_refuses_by_name(
    client: httpx.AsyncClient, workbench: FakeWorkbench, body: dict[str, Any], param: str
) -> None:
    answer = await client.post("/models/load", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert param in answer.json()["error"]["message"]
    assert workbench.calls == []


async def test_load_that_does_not_fit(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    async def fail(report: ProgressCallback) -> None:
        raise InsufficientMemory("org/tiny needs 5 GB, 1 GB is free. Unload org/big.")

    workbench.script = fail
    for stream in (False, True):
        answer = await client.post("/models/load", json={"stream": stream})
        assert answer.status_code == 507
        assert answer.json()["error"]["code"] == "insufficient_memory"


async def test_load_as_stream(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    answer = await client.post("/models/load", json={"stream": True})
    assert answer.headers["Content-Type"] == "text/event-stream"
    *events, done = [block.removeprefix("data: ") for block in answer.text.split("\n\n") if block]
    assert done == "[DONE]"
    assert json.loads(events[-1])["cache_key"] == MODEL.cache_key


@pytest.mark.parametrize(
    ("body", "call"),
    [
        ({"model": "a"}, {"model": "a", "backend": None, "device": None, "mode": "drain"}),
        (
            {"model": "a", "backend": "transformers", "device": "cpu", "mode": "now"},
            {"model": "a", "backend": "transformers", "device": "cpu", "mode": "now"},
        ),
    ],
)
async def test_unload(
    client: httpx.AsyncClient, workbench: FakeWorkbench, body: dict[str, Any], call: dict[str, Any]
) -> None:
    answer = await client.post("/models/unload", json=body)
    assert answer.json()["total_count"] == 1
    assert answer.json()["unloaded_models"][0].keys() >= ENTRY
    assert workbench.calls == [call]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "model"), ({"model": "a", "mode": "later"}, "mode"), ({"model": "a", "x": 1}, "x")],
)
async def test_unload_refuses_by_name(
    client: httpx.AsyncClient, workbench: FakeWorkbench, body: dict[str, Any], param: str
) -> None:
    answer = await client.post("/models/unload", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert workbench.calls == []


async def test_unload_of_what_is_not_loaded(client: httpx.AsyncClient, workbench: FakeWorkbench) -> None:
    async def nothing(model: str, **only: Any) -> Any:
        raise ModelNotFound(f"{model} is not in memory.", param="model")

    workbench.unload = nothing  # type: ignore[method-assign]
    assert (await client.post("/models/unload", json={"model": "a"})).status_code == 404


@pytest.mark.parametrize(("body", "mode"), [(None, "drain"), ({}, "drain"), ({"mode": "now"}, "now")])
async def test_unload_all(
    client: httpx.AsyncClient, workbench: FakeWorkbench, body: dict[str, Any] | None, mode: str
) -> None:
    answer = await client.post("/models/unload-all", json=body)
    assert answer.json()["total_count"] == 1
    assert workbench.calls == [{"mode": mode}]


async def test_list_of_routes(client: httpx.AsyncClient) -> None:
    routes = {route["path"]: route["methods"] for route in (await client.get("")).json()["data"]}
    assert "POST" in routes["/v1/chat/completions"]
    assert routes["/v1/models/{id}"].keys() == {"GET", "DELETE"}
    assert all(text for methods in routes.values() for text in methods.values())
