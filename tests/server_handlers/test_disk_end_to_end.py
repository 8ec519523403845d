"""Models from the Hub to the disk, into memory, and off it all: the kernel's session, the real server.

Only the Hub and the engine are fakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import constants
from jupyter_server.serverapp import ServerApp

from samovar.connect import Server
from samovar.errors import ServerError
from samovar.records import OPEN, Download
from samovar.session import Session
from samovar_handlers.base import Services
from samovar_server.workbench import Workbench
from tests.fakes.fake_hub import FakeHub, Fault, serving
from tests.fakes.gguf import write_gguf
from tests.fakes.models import FAKE_WORKER, write_model

CARD = b"---\nlicense: apache-2.0\n---\n# Tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub for the server and for the downloads that it starts; its one model can be loaded."""
    path = write_model(tmp_path / "on the hub", "tiny")
    files = {file.name: file.read_bytes() for file in path.iterdir()} | {"README.md": CARD}
    with serving(FakeHub(files=dict(files), found=[{"id": "org/tiny", "downloads": 5}])) as hub:
        for module in ("constants", "utils._cache_manager"):
            monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield hub


@pytest.fixture
def jp_server_config(hub: FakeHub, tmp_path: Path) -> dict[str, Any]:
    return {
        "ServerApp": {"jpserver_extensions": {"samovar_server": True}},
        "Workbench": {
            "model_folders": [str(tmp_path / "models")],
            "worker_command": FAKE_WORKER,
            "spare_worker": False,
        },
    }


@pytest.fixture
def workbench(jp_asyncio_loop: Any, services: Services) -> Workbench:
    """The real one, in the place of the fake one, started as Jupyter starts it."""
    jp_asyncio_loop.run_until_complete(services.workbench.start())
    return services.workbench


@pytest.fixture
def session(base_url: str, jp_serverapp: ServerApp, workbench: Workbench) -> Iterator[Session]:
    """It waits for its answers, so call it in a thread."""
    session = Session(Server(base_url.rstrip("/"), jp_serverapp.identity_provider.token, "test"))
    yield session
    session.close()


def end_of(session: Session, job_id: str | None = None) -> Download:
    """What has become of a download when nothing more comes of it: of a new one, or of one that goes on."""
    for event in session.events():
        if event.kind == OPEN and job_id is None:
            job_id = session.download("org/tiny", include=["*.json", "*.safetensors", "*.md"]).job_id
        elif event.kind == OPEN and job_id is not None:
            session.resume_download(job_id)
        elif event.kind == "download":
            job = Download.from_json(event.data["job"])
            if job.job_id == job_id and job.is_over:
                return job
    raise AssertionError("the events ended")


async def test_a_model_comes_is_used_and_goes(
    session: Session, client: httpx.AsyncClient, hub: FakeHub
) -> None:
    in_thread = asyncio.to_thread
    (found,) = await in_thread(session.search, "tin")
    assert (found.id, found.on_disk) == ("org/tiny", False)
    check = await in_thread(session.verify_repo, "org/tiny")
    assert (check.status, check.matched_files) == ("ok", 3)

    job = await in_thread(end_of, session)
    assert (job.status, job.message, job.bytes_done) == ("completed", "is here", job.bytes_total)
    (found,) = await in_thread(session.search, "tin")
    assert found.on_disk
    loaded = await in_thread(session.load, "org/tiny")
    (stored,) = await in_thread(session.inventory)
    told = stored.config_metadata or {}
    assert (stored.model_name, stored.complete, stored.model_path) == ("org/tiny", True, job.path)
    assert (told["license"], told["context_length"], told["parameters"]) == ("apache-2.0", 256, 64_064)
    assert stored.last_used is not None
    assert loaded.loaded_at is not None
    assert stored.last_used >= loaded.loaded_at

    with pytest.raises(ServerError, match="unload it first"):
        await in_thread(session.delete, "org/tiny")
    await in_thread(session.unload, "org/tiny")
    assert await in_thread(session.delete, "org/tiny") == stored.total_size_bytes
    assert await in_thread(session.inventory) == []

    text = (await client.get(str(client.base_url).replace("/v1/", "/metrics"))).text
    assert 'samovar_downloads{status="completed"} 1.0' in text
    assert f"samovar_download_fetched_bytes_total {float(job.bytes_total)}" in text


async def test_what_a_failed_download_left_is_cleaned_or_gone_on_with(session: Session, hub: FakeHub) -> None:
    in_thread = asyncio.to_thread
    hub.faults = {"model.safetensors": [Fault(status=404)]}
    job = await in_thread(end_of, session)
    assert job.status == "failed"
    assert "start the download anew" in (job.error or "")
    plan = await in_thread(lambda: session.clean(dry_run=True))
    assert {left.model for left in plan.removed} == {"org/tiny"}

    assert (await in_thread(end_of, session, job.job_id)).status == "completed"
    assert (await in_thread(session.clean)).removed == ()
    await in_thread(session.delete, "org/tiny")
    hub.faults = {"model.safetensors": [Fault(status=404)]}
    assert (await in_thread(end_of, session)).status == "failed"
    cleaned = await in_thread(session.clean)
    assert {left.model for left in cleaned.removed} == {"org/tiny"}
    assert cleaned.freed_bytes == sum(left.size_bytes for left in cleaned.removed)
    assert (await in_thread(session.clean)).removed == ()


async def test_a_gguf_model_is_judged_before_its_download(
    client: httpx.AsyncClient, hub: FakeHub, tmp_path: Path
) -> None:
    files = [write_gguf(tmp_path / "gguf" / name, elements=640) for name in ("m-Q4_0.gguf", "m-Q8_0.gguf")]
    hub.files = {file.name: file.read_bytes() for file in files}
    asked = {"model": "org/tiny:Q8_0", "backend": "transformers"}
    answer = await client.post("/models/estimate", json=asked)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["weights_bytes"], told["context_length"], told["fits"]) == (640 * 4, 256, True)
    for name in ("org/tiny", "org/tiny:Q2_K"):
        answer = await client.post("/models/estimate", json=asked | {"model": name})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "model_not_found")
        assert "Q4_0, Q8_0" in error["message"]
    assert (await client.get("/models/inventory")).json()["models"] == []
