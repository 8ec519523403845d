from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import constants

from samovar_server.downloader.job import Job, Wanted
from samovar_server.shelf import Shelf
from tests.fakes.folders import cache_snapshot, make_model
from tests.server_handlers.fakes import MODEL, FakeWorkbench


@pytest.fixture
def folder(
    jp_asyncio_loop: Any, workbench: FakeWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    workbench._shelf = Shelf([tmp_path / "models"], {}, tmp_path / "converted")
    make_model(tmp_path / "models" / "a")
    cache_snapshot(tmp_path / "hub", "org/b")
    workbench.downloads.jobs.start()
    yield tmp_path / "models"
    jp_asyncio_loop.run_until_complete(workbench.downloads.jobs.stop())


async def test_inventory(client: httpx.AsyncClient, folder: Path) -> None:
    told = (await client.get("/models/inventory")).json()
    assert [model["model_name"] for model in told["models"]] == ["a", "org/b"]
    assert told["total_models"] == 2
    assert told["total_size_bytes"] == sum(model["total_size_bytes"] for model in told["models"])
    assert told["leftovers"] == []
    assert told["models"][0]["model_path"] == str(folder / "a")


async def test_delete(client: httpx.AsyncClient, folder: Path) -> None:
    answer = await client.delete("/models/a")
    assert (answer.status_code, answer.json()["deleted"]) == (200, True)
    assert answer.json()["freed_bytes"] > 0
    assert not (folder / "a").exists()
    assert (await client.delete("/models/org/b")).status_code == 200
    assert (await client.get("/models/inventory")).json()["models"] == []
    assert (await client.delete("/models/a")).json()["error"]["code"] == "model_not_found"


async def test_clean(
    client: httpx.AsyncClient,
    workbench: FakeWorkbench,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blobs = tmp_path / "hub" / "models--org--b" / "blobs"
    blobs.mkdir()
    (blobs / "orphan").write_bytes(b"12345")
    (left,) = (await client.get("/models/inventory")).json()["leftovers"]
    assert (left["kind"], left["model"], left["size_bytes"]) == ("orphan", "org/b", 5)
    told = (await client.post("/models/clean", json={"dry_run": True})).json()
    assert told == {"removed": [left], "in_use": [], "freed_bytes": 5, "dry_run": True}
    assert (await client.post("/models/clean", json={"older_than_days": 1})).json()["removed"] == []
    with monkeypatch.context() as patch:
        busy = Job("1", Wanted("org/b"), "org/b", 0.0, status="pending")
        patch.setattr(workbench.downloads.jobs, "all", lambda: [busy])
        assert (await client.post("/models/clean")).json()["removed"] == []
    assert (await client.post("/models/clean")).json()["removed"] == [left]
    assert (await client.get("/models/inventory")).json()["leftovers"] == []
    for body, param in (({"older_than_days": -1}, "older_than_days"), ({"all": True}, "all")):
        answer = await client.post("/models/clean", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_what_is_in_memory_or_on_its_way_is_not_deleted(
    client: httpx.AsyncClient, workbench: FakeWorkbench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "loaded", lambda: [replace(MODEL, model_path=str(folder / "a"))])
    answer = await client.delete("/models/a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    busy = Job("1", Wanted("org/b"), "org/b", 0.0, status="downloading")
    monkeypatch.setattr(workbench.downloads.jobs, "all", lambda: [busy])
    answer = await client.delete("/models/org/b")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
