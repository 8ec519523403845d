"""A real JupyterHub with its proxy and samovar's service, by deploy/jupyterhub_config.py as it stands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.processes import children_of, is_running

Found = TypeVar("Found")

CONFIG = Path(__file__).parents[2] / "deploy" / "jupyterhub_config.py"
PATIENCE = 60.0
SETTINGS = """
c.Workbench.model_folders = [{models!r}]
c.Workbench.spare_worker = False
c.HubService.identity_seconds = 1
"""
AROUND = ("SAMOVAR_", "JPY_", "JUPYTER", "CONFIGPROXY_")


def until(look: Callable[[], Found | None], what: str, seconds: float = PATIENCE) -> Found:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
    return found


def free_ports(number: int) -> list[int]:
    """Ports of this machine on which nobody listens."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class RealHub:
    """The Hub in `folder`; `url` is the proxy's, without a slash at its end."""

    def __init__(self, folder: Path, models: Path, proxy: str) -> None:
        self.folder = folder
        config = folder / "config"
        config.mkdir()
        (config / "samovar_hub_config.py").write_text(SETTINGS.format(models=str(models)))
        public, hub, proxy_api, service = free_ports(4)
        self.url = f"http://127.0.0.1:{public}"
        self._command = [
            *(sys.executable, "-m", "jupyterhub", f"--config={CONFIG}"),
            f"--JupyterHub.bind_url={self.url}",
            f"--JupyterHub.hub_bind_url=http://127.0.0.1:{hub}",
            f"--ConfigurableHTTPProxy.api_url=http://127.0.0.1:{proxy_api}",
            "--Spawner.args=['--allow-root']",  # CI runs as root
        ]
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(AROUND)},
            "PATH": f"{Path(proxy).parent}{os.pathsep}{os.environ['PATH']}",
            "JUPYTER_CONFIG_DIR": str(config),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "SAMOVAR_SERVICE_ADDRESS": f"http://127.0.0.1:{service}",
        }
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE)
        self._pids: set[int] = set()

    @property
    def log(self) -> str:
        """What Hub, proxy, service and users' servers have logged."""
        return (self.folder / "hub.log").read_text()

    def start(self) -> None:
        """Start the Hub, as a machine does when it boots; returns when the service answers."""
        with (self.folder / "hub.log").open("a") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._serves, f"the Hub, whose log is {self.folder}/hub.log")

    def _serves(self) -> bool | None:
        assert self.process.poll() is None, self.log
        try:
            answer = self.client.get("/services/samovar/v1/health")
        except httpx.TransportError:
            return None
        return True if answer.status_code == 200 else None

    def stop(self) -> int:
        """Stop it as a supervisor would; its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Leave nothing behind, whatever has happened."""
        self.client.close()
        if self.process.poll() is None:
            self.stop()
        for pid in filter(is_running, self._pids):
            os.kill(pid, signal.SIGKILL)

    def service_pid(self) -> int:
        """The service's process."""
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children_of(self.process.pid)}
        self._pids |= commands.keys()
        (pid,) = (pid for pid, command in commands.items() if "samovar_server.hub" in command)
        return pid

    def log_in(self, name: str) -> str:
        """Log a user in by the Hub's page; a token that may do all that the user may."""
        passwords = json.loads((self.folder / "hub-passwords.json").read_text())
        password = passwords["administrators" if name == "admin" else "users"]
        with httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE) as browser:
            browser.get("/hub/login")
            form = {"username": name, "password": password, "_xsrf": self._xsrf(browser)}
            assert browser.post("/hub/login", data=form).status_code == 302
            browser.get("/hub/home")
            headers = {"X-XSRFToken": self._xsrf(browser)}
            made = browser.post(f"/hub/api/users/{name}/tokens", json={}, headers=headers)
        token: str = made.raise_for_status().json()["token"]
        return token

    @staticmethod
    def _xsrf(browser: httpx.Client) -> str:
        return next(cookie.value or "" for cookie in browser.cookies.jar if cookie.name == "_xsrf")

    def api(self, token: str, method: str, path: str, **more: Any) -> Any:
        """Ask the Hub's own API."""
        answer = self.client.request(method, f"/hub/api/{path}", headers=bearer(token), **more)
        return answer.raise_for_status().json() if answer.content else None

    def token(self, owner: str, name: str, *scopes: str) -> dict[str, Any]:
        """A new token of `name`, made with one of `owner`, that may do no more than `scopes`."""
        made: dict[str, Any] = self.api(owner, "POST", f"users/{name}/tokens", json={"scopes": scopes})
        return made

    def start_server(self, token: str, name: str) -> None:
        """Start the user's own server."""
        self.api(token, "POST", f"users/{name}/server")

    def server_pid(self, token: str, name: str) -> int | None:
        """The process of the user's own server; None before it is ready."""
        server = self.api(token, "GET", f"users/{name}")["servers"].get("", {})
        return int(server["state"]["pid"]) if server.get("ready") else None
