"""The extension in a Jupyter server: in this process, and as the process that a user starts."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from jupyter_server.serverapp import ServerApp

from samovar_handlers.base import SERVICES
from samovar_server import _jupyter_server_extension_points
from samovar_server.app import SamovarApp
from samovar_server.loader.options import LoadOptions
from samovar_server.workbench import Workbench
from tests.fakes.models import FAKE_WORKER, write_model
from tests.processes import children_of, is_running

PATIENCE = 60.0


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    return {
        "ServerApp": {"jpserver_extensions": {"samovar_server": True}},
        "Workbench": {
            "default_ttl": 7.0,
            "max_body_bytes": 1234,
            "spare_worker": False,
            "worker_command": FAKE_WORKER,
        },
    }


@pytest.fixture
def app(jp_serverapp: ServerApp) -> SamovarApp:
    (app,) = jp_serverapp.extension_manager.extension_apps["samovar_server"]
    assert isinstance(app, SamovarApp)
    return app


@pytest.fixture
def start(jp_serverapp: ServerApp) -> Callable[[], Any]:
    """What Jupyter does when its loop runs; the server of these tests is started without that."""
    return jp_serverapp.extension_manager.start_all_extensions


def test_jupyter_finds_the_extension() -> None:
    assert _jupyter_server_extension_points() == [{"module": "samovar_server.app", "app": SamovarApp}]


def test_settings_come_from_jupyters_configuration(app: SamovarApp) -> None:
    assert app.workbench.default_ttl == 7.0
    services = app.serverapp.web_app.settings[SERVICES]
    assert services.workbench.max_body_bytes == 1234
    assert len(services.token) > 40
    assert services.token != app.serverapp.identity_provider.token


async def test_from_start_to_stop(
    app: SamovarApp, start: Callable[[], Any], jp_runtime_dir: Path, jp_base_url: str
) -> None:
    await start()
    file = jp_runtime_dir / f"samovar-{os.getpid()}.json"
    assert json.loads(file.read_text()) == {
        "pid": os.getpid(),
        "url": f"http://localhost:{app.serverapp.port}{jp_base_url}v1",
        "token": app.token,
    }
    await app.stop_extension()
    assert not file.exists()
    await app.stop_extension()


async def test_under_jupyterhub_kernels_go_direct(
    app: SamovarApp, start: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", "http://0.0.0.0:7777/user/ada/")
    await start()
    assert json.loads(app.discovery.path.read_text())["url"] == "http://127.0.0.1:7777/user/ada/v1"


async def test_a_runtime_folder_that_cannot_be_written_is_no_reason_to_fail(
    app: SamovarApp, start: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    app.discovery.path = tmp_path / "file" / "runtime" / "samovar-1.json"
    await start()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "SAMOVAR_URL" in record.getMessage()
    assert app.token not in caplog.text


async def test_a_server_on_a_unix_socket_is_not_published(
    app: SamovarApp, start: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    app.serverapp.sock = "/tmp/samovar.sock"  # noqa: S108  # never opened
    await start()
    assert not app.discovery.path.exists()
    assert "Unix socket" in caplog.text
    app.serverapp.sock = ""


async def test_requests_that_run_keep_an_idle_server_up(app: SamovarApp, tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    app.workbench = Workbench(
        model_folders=[str(tmp_path)], worker_command=FAKE_WORKER, spare_worker=False, parent=app
    )
    assert app.current_activity() is None
    async with app.workbench.acquire("m", LoadOptions()):
        assert app.current_activity() == {"requests": 1}
        assert app.serverapp.extension_manager.any_activity()
    assert app.current_activity() is None


CONFIG = """
import atexit, pathlib, sys
c.ServerApp.jpserver_extensions = {{"samovar_server": True}}
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False
c.ServerApp.port = 0
c.Workbench.model_folders = [{folder!r}]
c.Workbench.worker_command = {worker!r}
atexit.register(lambda: pathlib.Path({modules!r}).write_text("\\n".join(sys.modules)))
"""


@dataclass
class Server:
    """A Jupyter server of its own; `modules` is a file where it notes what it had imported at its end."""

    process: subprocess.Popen[str]
    log: list[str]
    runtime_dir: Path
    modules: Path

    @property
    def file(self) -> Path:
        return self.runtime_dir / f"samovar-{self.process.pid}.json"

    def until_served(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "models are served at" in line:
                return
        raise AssertionError("the server ended: " + "".join(self.log))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Starts `python -m <module>` as a Jupyter server with the extension and the fake worker."""
    servers: list[Server] = []

    def start(module: str) -> Server:
        config = tmp_path / "config.py"
        modules = tmp_path / "modules.txt"
        folder = tmp_path / "models"
        write_model(folder, "org/m")
        config.write_text(CONFIG.format(folder=str(folder), worker=FAKE_WORKER, modules=str(modules)))
        places = {
            name: str(tmp_path / name)
            for name in ("HOME", "HF_HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
        }
        process = subprocess.Popen(
            [sys.executable, "-m", module, f"--config={config}"],
            env={**os.environ, **places},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        servers.append(Server(process, [], tmp_path / "JUPYTER_RUNTIME_DIR", modules))
        servers[-1].until_served()
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.communicate(timeout=PATIENCE)


def is_worker(pid: int) -> bool:
    """Other extensions of a Jupyter server have children, too."""
    return FAKE_WORKER[1] in Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.parametrize(
    ("module", "end"),
    [
        ("jupyter_server", signal.SIGTERM),
        ("jupyter_server", signal.SIGINT),
        ("samovar_server", signal.SIGTERM),
    ],
)
def test_a_server_from_its_start_to_its_end(
    serve: Callable[[str], Server], module: str, end: signal.Signals
) -> None:
    server = serve(module)
    assert server.file.stat().st_mode & 0o777 == 0o600
    told = json.loads(server.file.read_text())
    assert told["pid"] == server.process.pid
    with httpx.Client(base_url=told["url"], timeout=PATIENCE, trust_env=False) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/models").status_code == 401
        client.headers["Authorization"] = f"Bearer {told['token']}"
        body = {"model": "org/m", "messages": [{"role": "user", "content": "one two"}]}
        answer = client.post("/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "one two"
        server_root = told["url"].removesuffix("/v1")
        assert client.get(f"{server_root}/api/contents").status_code == 403
        if module == "samovar_server":  # Jupyter's own server may have the Lab beside us
            assert client.get(f"{server_root}/lab").status_code == 404
    workers = {pid for pid in children_of(server.process.pid) if is_worker(pid)}
    assert workers

    server.process.send_signal(end)
    _, rest = server.process.communicate(timeout=PATIENCE)
    log = "".join(server.log) + rest
    assert server.process.returncode == 0, log
    assert not server.file.exists()
    deadline = time.monotonic() + PATIENCE
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert told["token"] not in log
    assert "Traceback" not in log
    imported = server.modules.read_text().split()
    assert "samovar_server.app" in imported
    assert not {"torch", "transformers", "samovar"} & set(imported)


def test_without_jupyter_server_the_command_says_what_to_install(tmp_path: Path) -> None:
    hidden = (
        "import sys; sys.modules['jupyter_server'] = None; from samovar_server.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'samovar[local]'" in done.stderr
    assert "Traceback" not in done.stderr
