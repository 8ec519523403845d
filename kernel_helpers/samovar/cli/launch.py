"""`samovar serve` and `samovar lab`: Jupyter, with samovar in it. `samovar hub`: JupyterHub's service."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from samovar.errors import SamovarError

NEEDS = {"serve": "jupyter_server", "lab": "jupyterlab", "hub": "jupyterhub"}
EXTRAS = {"serve": "local", "lab": "local", "hub": "hub"}
MODULES = {
    "serve": ["-m", "samovar_server"],
    "lab": ["-m", "jupyterlab"],
    "hub": ["-m", "samovar_server.hub"],
}


def launch(options: Namespace) -> int:
    """Become the server; where a process cannot become another one, run it and return its exit code."""
    name: str = options.command
    if find_spec(NEEDS[name]) is None:
        raise SamovarError(
            f"{NEEDS[name]} is not installed in this environment. Run: pip install 'samovar[{EXTRAS[name]}]'"
        )
    command = [sys.executable, *MODULES[name], *options.jupyter]
    if os.name != "nt":
        os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted
    return subprocess.run(command, check=False).returncode


COMMANDS: Mapping[str, Callable[[Namespace], int]] = dict.fromkeys(MODULES, launch)
