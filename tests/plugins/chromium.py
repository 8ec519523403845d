"""Tests marked `browser` need Chromium: a user without one is told so, CI without one fails."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.plugins.programs import Requirement

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_CHROME = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
NEEDED = Requirement(
    "browser", "no Chromium: install chromium or google-chrome, or set SAMOVAR_CHROMIUM to its executable"
)


def find_chromium() -> str | None:
    """The executable to drive: SAMOVAR_CHROMIUM, else the first one found; None if there is none."""
    configured = os.environ.get("SAMOVAR_CHROMIUM")
    if configured:
        return shutil.which(configured)
    candidates = (*NAMES, MAC_CHROME) if sys.platform == "darwin" else NAMES
    return next(filter(None, map(shutil.which, candidates)), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium executable, for `executable_path` of playwright's `launch`."""
    executable = find_chromium()
    assert executable is not None, "a test that uses this fixture must be marked `browser`"
    return executable


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Playwright keeps an event loop running in this thread from its start to its end, and no other
    # asynchronous test could run beside it.
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    NEEDED.check(item, find_chromium)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    NEEDED.tell(terminalreporter, config)
