"""How a kernel finds the server that started it: `samovar-<pid>.json` in Jupyter's runtime folder.

A kernel knows its server's process id (JPY_PARENT_PID) but neither its URL nor a token. The file holds
both: the URL as seen from this machine and a token that opens /v1 and nothing else.
"""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from jupyter_core.paths import jupyter_runtime_dir, secure_write

LOOPBACKS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104
"""What to connect to, on the same machine, for an address that a server listens on."""


class DiscoveryFile:
    """The file of this process, readable by its owner only. It goes when the process ends, too."""

    def __init__(self) -> None:
        self.path = Path(jupyter_runtime_dir()) / f"samovar-{os.getpid()}.json"
        self._written = False

    def write(self, url: str, token: str) -> None:
        """Publish the URL of /v1 and the token that opens it. OSError when the folder is not writable."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._written = True
        with secure_write(str(self.path)) as file:
            json.dump({"pid": os.getpid(), "url": url, "token": token}, file)
        # JupyterHub stops a server by SIGINT, and then Jupyter never calls stop_extension.
        atexit.register(self.remove)

    def remove(self) -> None:
        """Take the file away, if there is one of ours."""
        atexit.unregister(self.remove)
        if self._written:
            self.path.unlink(missing_ok=True)


def local_v1_url(server_url: str, listens_on: str) -> str:
    """The URL of /v1 for a process on this machine.

    `server_url` is the server's base URL and `listens_on` its configured address: a server on all
    addresses is reached by loopback, as the machine's own name need not resolve.
    """
    parts = urlsplit(server_url)
    host = LOOPBACKS.get(listens_on or parts.hostname or "")
    if host is not None:
        parts = parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/v1", query="", fragment=""))
