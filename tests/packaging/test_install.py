"""An installed samovar is an enabled extension, whether from a wheel or editable."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, Distributions, Environment

pytestmark = pytest.mark.packaging

Install = Callable[[Path], Environment]

WHERE = "import samovar, samovar_handlers, samovar_server; print(samovar.__file__)"


def assert_enabled(environment: Environment) -> None:
    listing = environment.python("-m", "jupyter_server.extension.serverextension", "list")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", listing)
    assert "samovar_server enabled" in plain
    assert f"samovar_server {version('samovar')} OK" in plain
    lab = environment.prefix / "share" / "jupyter" / "labextensions" / "samovar-lab"
    assert (lab / "static" / "remoteEntry.js").is_file()


def test_wheel(distributions: Distributions, install: Install) -> None:
    environment = install(distributions.wheel)
    assert environment.python("-c", WHERE).startswith(str(environment.prefix))
    assert_enabled(environment)


def test_editable(editable_wheel: Path, install: Install) -> None:
    environment = install(editable_wheel)
    assert environment.python("-c", WHERE).startswith(str(ROOT / "kernel_helpers"))
    assert_enabled(environment)
