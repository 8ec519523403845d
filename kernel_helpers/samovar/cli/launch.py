"""`samovar serve` and `samovar lab`: Jupyter, with samovar in it. `samovar hub`: JupyterHub's service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from samovar.errors import SamovarError

NEEDS = {"serve": "jupyter_server", "lab": "jupyterlab", "hub": "jupyterhub"}
EXTRAS = {"serve": "local", "lab": "local", "hub": "hub"}
COMMANDS = {
    "serve": ["-m", "samovar_server"],
    "lab": ["-m", "jupyterlab"],
    "hub": ["-m", "samovar_server.hub"],
}


def launch(name: str, arguments: Sequence[str]) -> int:
    """Become the server; where a process cannot become another one, run it and return its exit code."""
    if find_spec(NEEDS[name]) is None:
        raise SamovarError(
            f"{NEEDS[name]} is not installed in this environment. Run: pip install 'samovar[{EXTRAS[name]}]'"
        )
    command = [sys.executable, *COMMANDS[name], *arguments]
    if os.name != "nt":
        os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted
    return subprocess.run(command, check=False).returncode
