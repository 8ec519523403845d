"""What is in the wheel and in the sdist."""

from __future__ import annotations

import json
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, Distributions

pytestmark = pytest.mark.packaging

PACKAGES = {
    "samovar": ROOT / "kernel_helpers",
    "samovar_handlers": ROOT / "server_handlers",
    "samovar_server": ROOT / "extension",
}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_the_three_packages_and_nothing_else(distributions: Distributions) -> None:
    names = contents(distributions.wheel)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("samovar-")} == set(PACKAGES)
    for package, folder in PACKAGES.items():
        sources = {path.relative_to(folder).as_posix() for path in (folder / package).rglob("*.py")}
        assert sources == {n for n in names if n.startswith(f"{package}/") and n.endswith(".py")}
        assert f"{package}/py.typed" in names


def test_wheel_enables_the_extension_and_carries_the_licence(distributions: Distributions) -> None:
    names = contents(distributions.wheel)
    (config,) = (name for name in names if name.endswith("jupyter_server_config.d/samovar_server.json"))
    assert config.partition(".data/data/")[2] == "etc/jupyter/jupyter_server_config.d/samovar_server.json"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    (entry_points,) = (text for name, text in names.items() if name.endswith("entry_points.txt"))
    assert b"samovar = samovar.cli:main" in entry_points


def test_wheel_brings_the_lab_its_part_and_the_documentation(distributions: Distributions) -> None:
    place = ".data/data/share/jupyter/labextensions/samovar-lab/"
    wheel = contents(distributions.wheel)
    files = {name.partition(place)[2]: data for name, data in wheel.items() if place in name}
    package = json.loads(files["package.json"])
    assert package["version"] == version("samovar")
    assert package["jupyterlab"]["_build"]["load"] in files
    assert files["static/docs/README.md"] == (ROOT / "README.md").read_bytes()
    assert "static/docs/docs/widgets.md" in files


def test_sdist_holds_sources_tests_and_papers_but_no_leavings(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "constraints.txt", "LICENSE", "README.md", "ARCHITECTURE.md"} <= names
    assert {"tests/conftest.py", "script/lab", "script/test"} <= names
    assert not [
        name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/", "dist"))
    ]


def test_wheel_from_the_sdist_equals_the_wheel_from_the_checkout(distributions: Distributions) -> None:
    assert contents(distributions.wheel) == contents(distributions.wheel_of_tree)
