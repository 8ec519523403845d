"""Tests marked `hub` need JupyterHub's proxy, a program of Node's: a user without it is told, CI fails."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.plugins.programs import Requirement

COMMAND = "configurable-http-proxy"
INSTALLED = Path(sys.prefix) / "node" / "node_modules" / ".bin"
"""Where script/test installs it."""
NEEDED = Requirement(
    "hub", f"no {COMMAND}: install Node, and script/test does the rest (or: npm install -g {COMMAND})"
)


def find_hub_proxy() -> str | None:
    """The proxy's executable; None where it or Node is missing."""
    if shutil.which("node") is None:
        return None
    return shutil.which(COMMAND, path=f"{INSTALLED}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.fixture(scope="session")
def hub_proxy() -> str:
    """Path of the proxy's executable."""
    executable = find_hub_proxy()
    assert executable is not None, "a test that uses this fixture must be marked `hub`"
    return executable


def pytest_runtest_setup(item: pytest.Item) -> None:
    NEEDED.check(item, find_hub_proxy)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    NEEDED.tell(terminalreporter, config)
