"""The service as the process that a Hub starts; the Hub and the worker are fakes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from samovar_server.hub.place import Place
from tests.fakes.fake_jupyterhub import FakeHub
from tests.fakes.models import FAKE_WORKER, FakeScript, write_model
from tests.processes import children_of, wait_for_end

PATIENCE = 60.0
GIVEN = {
    "JUPYTERHUB_API_TOKEN": "services-token",
    "JUPYTERHUB_SERVICE_NAME": "samovar",
    "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:8095",
}
CONFIG = """
c.Workbench.model_folders = [{folder!r}]
c.Workbench.worker_command = {worker!r}
c.Workbench.spare_worker = False
"""
PARENT = "import subprocess, sys; subprocess.run(sys.argv[1:])"
"""A parent that does not take its child with it."""
CHAT = {"model": "org/m", "messages": [{"role": "user", "content": "one two"}], "stream": True}


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, Place("127.0.0.1", 8095, "/services/samovar/")),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/hub1/services/s/"}, Place("127.0.0.1", 8095, "/hub1/services/s/")),
        ({"JUPYTERHUB_SERVICE_URL": "http://[::]:80/"}, Place("::", 80, "/services/samovar/")),
    ],
)
def test_the_hub_says_where_to_be(given: dict[str, str], place: Place) -> None:
    assert Place.given(GIVEN | given) == place


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"JUPYTERHUB_API_TOKEN": ""}, "JUPYTERHUB_API_TOKEN not set"),
        ({"JUPYTERHUB_SERVICE_URL": "https://127.0.0.1:8095"}, "has to look like"),
        ({"JUPYTERHUB_SERVICE_URL": "http://127.0.0.1"}, "has to look like"),
        ({"JUPYTERHUB_SSL_CERTFILE": "/certs/c.pem"}, "internal_ssl"),
    ],
)
def test_what_it_cannot_do_is_told(given: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Place.given(GIVEN | given)


def test_outside_a_hub_the_command_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "samovar_server.hub"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTERHUB_")}
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "c.JupyterHub.services" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_jupyterhub_the_command_says_what_to_install() -> None:
    hidden = (
        "import sys; sys.modules['jupyterhub'] = None; from samovar_server.hub.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'samovar[hub]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Service:
    """A running service; `pid` is its own, also when `process` is its parent."""

    process: asyncio.subprocess.Process
    url: str
    pid: int
    log: list[str] = field(default_factory=list)

    async def until_served(self) -> None:
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            self.log.append(line)
            if "models are served at" in line:
                return
        await self.process.wait()
        raise AssertionError("the service ended: " + "".join(self.log))

    async def ended(self) -> str:
        """Wait for the end of the process; its log."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            rest = await self.process.stderr.read()
            await self.process.wait()
        return "".join(self.log) + rest.decode()


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
def start(hub: FakeHub, tmp_path: Path, unused_port: int) -> Start:
    async def start(*before: str) -> Service:
        write_model(tmp_path / "models", "org/m", FakeScript(hang_after_tokens=1))
        config = tmp_path / "config.py"
        config.write_text(CONFIG.format(folder=str(tmp_path / "models"), worker=FAKE_WORKER))
        places = {
            name: str(tmp_path / name) for name in ("HF_HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
        }
        url = f"http://127.0.0.1:{unused_port}"
        told = {**GIVEN, "JUPYTERHUB_SERVICE_URL": url, "JUPYTERHUB_API_URL": hub.url}
        process = await asyncio.create_subprocess_exec(
            *before,
            *(sys.executable, "-m", "samovar_server.hub", f"--config={config}"),
            env={**os.environ, **places, **told},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        service = Service(process, f"{url}/services/samovar/v1", process.pid)
        await service.until_served()
        if before:
            (service.pid,) = children_of(process.pid)
        return service

    return start


@asynccontextmanager
async def stream(service: Service) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of an answer that has begun and would not end."""
    headers = {"Authorization": "Bearer adas-token"}
    async with (
        httpx.AsyncClient(base_url=service.url, headers=headers, timeout=PATIENCE, trust_env=False) as client,
        client.stream("POST", "/chat/completions", json=CHAT) as answer,
    ):
        lines = answer.aiter_lines()
        async for line in lines:
            if '"content": "one"' in line:
                break
        yield lines


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
async def test_the_end_is_told_in_running_streams_and_takes_the_workers_along(
    start: Start, end: signal.Signals
) -> None:
    service = await start()
    async with stream(service) as lines:
        workers = children_of(service.pid)
        assert workers
        service.process.send_signal(end)
        (last,) = [line async for line in lines if line.startswith("data: ")]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "model_unloaded"
    assert "send the request again" in error["message"]
    log = await service.ended()
    assert service.process.returncode == 0, log
    assert "Traceback" not in log
    assert "adas-token" not in log
    assert "services-token" not in log
    for worker in workers:
        wait_for_end(worker)


async def test_a_hub_that_was_killed_leaves_nothing_behind(start: Start) -> None:
    service = await start(sys.executable, "-c", PARENT)
    async with stream(service) as lines:
        workers = children_of(service.pid)
        service.process.kill()
        (last,) = [line async for line in lines if line.startswith("data: ")]
    assert "model_unloaded" in last
    for pid in (service.pid, *workers):
        await asyncio.to_thread(wait_for_end, pid)
    await service.ended()


async def test_an_address_that_is_taken_is_told(start: Start, unused_port: int) -> None:
    listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", unused_port)
    with pytest.raises(AssertionError, match=r"cannot start.*in use"):
        await start()
    listener.close()
    await listener.wait_closed()
