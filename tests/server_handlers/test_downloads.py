from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server_handlers.fake_downloads import FakeProcess, fake_downloads
from tests.server_handlers.fakes import FakeWorkbench

DONE = {"event": "done", "name": "org/a", "path": "/models/a", "already_there": False, "revision": "abc"}
FIELDS = {
    "job_id", "status", "url", "revision", "destination", "created_at", "started_at", "completed_at",
    "duration_seconds", "bytes_total", "bytes_done", "bytes_per_second", "eta_seconds", "files_total",
    "files_downloaded", "current_file", "message", "error",
}  # fmt: skip


@pytest.fixture
def processes(jp_asyncio_loop: Any, workbench: FakeWorkbench, tmp_path: Path) -> Iterator[list[FakeProcess]]:
    started = fake_downloads(workbench, tmp_path)
    yield started
    jp_asyncio_loop.run_until_complete(workbench.downloads.jobs.stop())


async def test_start_list_one_cancel_resume(
    client: httpx.AsyncClient, processes: list[FakeProcess], workbench: FakeWorkbench
) -> None:
    answer = await client.post("/models/download", json={"url": "org/a", "include": ["*.json"]})
    assert answer.status_code == 202
    job = answer.json()
    assert job.keys() >= FIELDS
    assert (job["status"], job["url"], job["include"]) == ("downloading", "org/a", ["*.json"])
    again = await client.post("/models/download", json={"url": "org/a", "include": ["*.json"]})
    assert again.json()["job_id"] == job["job_id"]
    listed = (await client.get("/models/download")).json()
    assert [shown["job_id"] for shown in listed["downloads"]] == [job["job_id"]]
    path = f"/models/download/{job['job_id']}"
    assert (await client.get(path)).json()["status"] == "downloading"
    assert (await client.delete(path)).json()["status"] == "cancelled"
    assert (await client.delete(path)).status_code == 409
    resumed = await client.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json()["job_id"]) == (202, job["job_id"])
    assert (await client.post(f"{path}/resume")).status_code == 409
    told = [event.data["change"] for event in workbench.events.after(0) if event.kind == "download"]
    assert told[:3] == ["pending", "downloading", "cancelled"]


async def test_the_end_is_an_event_with_the_job(
    client: httpx.AsyncClient, processes: list[FakeProcess], workbench: FakeWorkbench
) -> None:
    job = (await client.post("/models/download", json={"url": "org/a"})).json()
    begun = workbench.events.newest
    processes[0].lines.put_nowait(json.dumps(DONE).encode())
    assert await workbench.events.wait(begun, timeout=20)
    (event,) = workbench.events.after(begun)
    assert event.kind == "download"
    assert event.data["change"] == "completed"
    assert event.data["job"] == (await client.get(f"/models/download/{job['job_id']}")).json()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": "https://evil.example/org/a"}, "url"),
        ({"url": "org/a", "destination": "/etc"}, "destination"),
        ({"url": "org/a", "revision": "--x"}, "revision"),
        ({"url": "org/a", "quantization": "Q4 K"}, "quantization"),
        ({"url": "org/a", "include": "*.json"}, "include"),
        ({"url": "org/a", "token": "hf_secret"}, "token"),
    ],
)
async def test_bad_fields_are_named(
    client: httpx.AsyncClient, processes: list[FakeProcess], body: dict[str, Any], param: str
) -> None:
    answer = await client.post("/models/download", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert "hf_secret" not in answer.text
    assert processes == []


async def test_xet_is_refused_and_what_to_do_instead_is_told(
    client: httpx.AsyncClient, processes: list[FakeProcess]
) -> None:
    answer = await client.post("/models/download", json={"url": "org/a", "xet": True})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "xet")
    assert "hf download" in error["message"]
    assert processes == []
    assert (await client.post("/models/download", json={"url": "org/a", "xet": False})).status_code == 202


async def test_no_such_download(client: httpx.AsyncClient, processes: list[FakeProcess]) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/resume")):
        answer = await client.request(method, f"/models/download/nowhere{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "download_not_found")


async def test_verify_repo(client: httpx.AsyncClient, processes: list[FakeProcess]) -> None:
    answer = await client.post("/models/verify-repo", json={"url": "org/a"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["status"], told["repo_type"], told["matched_files"]) == ("ok", "model", 3)
    assert (await client.post("/models/verify-repo", json={"url": "../x"})).status_code == 400


async def test_search(client: httpx.AsyncClient, processes: list[FakeProcess]) -> None:
    told = (await client.get("/models/search", params={"q": "a"})).json()
    assert [model["id"] for model in told["models"]] == ["org/a"]
    offline = await client.get("/models/search", params={"q": "offline"})
    assert (offline.status_code, offline.json()["error"]["code"]) == (503, "hub_unavailable")
    for params, param in (({}, "q"), ({"q": "a", "limit": "0"}, "limit"), ({"q": "a", "x": "1"}, "x")):
        answer = await client.get("/models/search", params=params)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
