"""Finds the samovar server that this process is to talk to.

The first of these that is there wins:

1. what the caller names,
2. SAMOVAR_URL with SAMOVAR_TOKEN, or with SAMOVAR_TOKEN_ENV, which names the variable that holds the token,
3. the Jupyter server that started this kernel (JPY_PARENT_PID) or this process (its parent),
4. under JupyterHub, the user's own server,
5. for terminals and editors: the one samovar server of this user that is alive on this machine.

For 3 and 5 every server leaves `samovar-<pid>.json` in Jupyter's runtime folder, with its URL and a
token that opens /v1 and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jupyter_core.paths import jupyter_runtime_dir

from samovar.errors import NoServer

if TYPE_CHECKING:
    import httpx

HEALTH_SECONDS = 2.0
"""How long a server of this machine may take to say that it is alive."""

NO_SERVER = (
    "No samovar server was found. Start one with `samovar serve` or `jupyter lab`, or name one with the "
    "environment variables SAMOVAR_URL and SAMOVAR_TOKEN."
)


@dataclass(frozen=True, slots=True)
class Server:
    """Where /v1 is (`url` has no slash at its end), the token that opens it, and what told so."""

    url: str
    token: str = field(repr=False)
    source: str


def find_server(
    url: str | None = None, token: str | None = None, *, environ: Mapping[str, str] = os.environ
) -> Server:
    """The server to talk to; NoServer says what to do when there is none or more than one."""
    if url:
        return Server(_v1(url, "url"), token or "", "arguments")
    return (
        _named(environ)
        or _parent(environ)
        or _hub(environ)
        or _only_one_alive(environ.get("JUPYTER_SERVER_URL", ""))
    )


def is_loopback(url: str) -> bool:
    """Whether `url` points at this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def transport_for(url: str) -> httpx.HTTPTransport | None:
    """A transport that goes straight to a server on this machine; None, httpx's own, for any other.

    With its own, httpx would send requests for 127.0.0.1 to the proxy that HTTP_PROXY names.
    """
    import httpx

    return httpx.HTTPTransport() if is_loopback(url) else None


def _named(environ: Mapping[str, str]) -> Server | None:
    url = environ.get("SAMOVAR_URL")
    if not url:
        return None
    # An administrator gives the name of a variable, so that a Hub token goes only to a URL somebody named.
    token = environ.get("SAMOVAR_TOKEN") or environ.get(environ.get("SAMOVAR_TOKEN_ENV", ""), "")
    return Server(_v1(url, "SAMOVAR_URL"), token, "SAMOVAR_URL")


def _parent(environ: Mapping[str, str]) -> Server | None:
    pids = (environ.get("JPY_PARENT_PID", ""), str(os.getppid()))
    found = (_read(Path(jupyter_runtime_dir()) / f"samovar-{pid}.json") for pid in pids if pid.isdecimal())
    return next((server for server in found if server is not None), None)


def _hub(environ: Mapping[str, str]) -> Server | None:
    url, token = environ.get("JUPYTERHUB_SERVICE_URL"), environ.get("JUPYTERHUB_API_TOKEN")
    return Server(_v1(url, "JUPYTERHUB_SERVICE_URL"), token, "JupyterHub") if url and token else None


def _only_one_alive(terminal_of: str) -> Server:
    """The one live server of this user. `terminal_of` is the URL that Jupyter gives to its terminals."""
    files = sorted(Path(jupyter_runtime_dir()).glob("samovar-*.json"))
    alive = [server for file in files if (server := _read(file)) is not None and _is_alive(file, server)]
    own = [server for server in alive if terminal_of and server.url == _v1(terminal_of, "JUPYTER_SERVER_URL")]
    choice = own or alive
    if not choice:
        raise NoServer(NO_SERVER)
    if len(choice) > 1:
        urls = ", ".join(server.url for server in choice)
        raise NoServer(
            f"Several samovar servers are running: {urls}. Set SAMOVAR_URL to the one you mean, and "
            "SAMOVAR_TOKEN to its Jupyter token (`jupyter server list` shows it)."
        )
    return choice[0]


def _read(file: Path) -> Server | None:
    """What a discovery file says; None when there is none, or none that this user wrote."""
    try:
        if hasattr(os, "getuid") and file.stat().st_uid != os.getuid():
            return None
        told = json.loads(file.read_text(encoding="utf-8"))
        return Server(_v1(told["url"], file.name), told["token"], file.name)
    except (OSError, ValueError, KeyError, TypeError, NoServer):
        return None  # gone, or half written: as good as not there


def _is_alive(file: Path, server: Server) -> bool:
    pid = file.stem.removeprefix("samovar-")
    return pid.isdecimal() and _is_running(int(pid)) and _answers(server)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end the process; the health check has to do
        return True
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):  # gone, or the number is another user's process by now
        return False
    return True


def _answers(server: Server) -> bool:
    import httpx

    try:
        with httpx.Client(transport=transport_for(server.url), timeout=HEALTH_SECONDS) as client:
            return client.get(f"{server.url}/health").is_success
    except httpx.HTTPError:
        return False


def _v1(url: str, source: str) -> str:
    """`url` as the URL of /v1, whether or not it says so itself."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise NoServer(f"{source} is not the URL of a server; it should look like http://127.0.0.1:8888/v1.")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise NoServer(
            f"{source} must be the plain URL of the server, such as http://127.0.0.1:8888/v1; the token "
            "belongs into SAMOVAR_TOKEN."
        )
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"
