"""Each part imports only what its extra declares, and runs with no more than that installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.imports import third_party_imports
from tests.packaging.conftest import ROOT

# The parts of the code, and the extra that must be enough for each.
EXTRA_OF = {
    "kernel_helpers/samovar": "",
    "kernel_helpers/samovar/answers.py": "dataframe",
    "kernel_helpers/samovar/dataframes.py": "dataframe",
    "kernel_helpers/samovar/widgets/compare.py": "dataframe",
    "server_handlers/samovar_handlers": "server",
    "extension/samovar_server": "server",
    "extension/samovar_server/engine": "torch",
    "extension/samovar_server/hub": "hub",
    "extension/samovar_server/downloader/convert.py": "torch",
    "extension/samovar_server/workers/llamacpp.py": "llamacpp",
}


def requirements(name: str, extra: str) -> list[Requirement]:
    """What the installed distribution `name` asks for under `extra` ("": the base only)."""
    found = map(Requirement, distribution(name).requires or [])
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


@cache
def declared(extra: str) -> frozenset[str]:
    """Distributions that samovar itself names for `extra`, through extras that name samovar again."""
    names: set[str] = set()
    for requirement in requirements("samovar", extra):
        if canonicalize_name(requirement.name) == "samovar":
            names |= declared(next(iter(requirement.extras), ""))
        else:
            names.add(canonicalize_name(requirement.name))
    return frozenset(names | (declared("") if extra else set()))


@cache
def installed_by(extra: str) -> frozenset[str]:
    """Every distribution that `pip install samovar[extra]` brings, with what those need in turn."""
    found: set[str] = set()
    todo = [("samovar", extra)]
    while todo:
        name, wanted = todo.pop()
        if (key := f"{canonicalize_name(name)}[{wanted}]") in found:
            continue
        try:
            needed = requirements(name, wanted)
        except PackageNotFoundError:  # an optional one that this platform does not have
            continue
        found.add(key)
        for requirement in needed:
            todo += [(requirement.name, e) for e in {"", *requirement.extras}]
    return frozenset(re.sub(r"\[.*", "", key) for key in found)


def modules_outside(extra: str) -> list[str]:
    """Top-level modules of this environment that are not there when only `extra` is installed."""
    here = installed_by(extra)
    return sorted(
        module
        for module, owners in packages_distributions().items()
        if module not in sys.stdlib_module_names and not here & {canonicalize_name(o) for o in owners}
    )


def run_without(modules: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python where importing `modules` fails as if they were not installed."""
    prelude = """
import json, sys
class Missing:
    names = set(json.loads(sys.argv.pop()))
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in self.names:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Missing())
"""
    return subprocess.run(
        [sys.executable, "-c", prelude + code, json.dumps(modules)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(("part", "extra"), EXTRA_OF.items())
def test_imports_are_declared(part: str, extra: str) -> None:
    owners = packages_distributions()
    ours = {"samovar", "samovar_handlers", "samovar_server"}
    other_parts = [ROOT / other for other in EXTRA_OF if other.startswith(part + "/")]
    undeclared = {
        f"{found.file.relative_to(ROOT)}:{found.line} imports {found.module}"
        for found in third_party_imports(ROOT / part)
        if found.top not in ours
        and not any(found.file.is_relative_to(other) for other in other_parts)
        and not declared(extra) & {canonicalize_name(owner) for owner in owners.get(found.top, [])}
    }
    assert not undeclared


def test_base_has_neither_torch_nor_a_server() -> None:
    absent = modules_outside("")
    assert {"torch", "transformers", "jupyter_server", "tornado"} <= set(absent)


def test_kernel_side_runs_on_the_base_install() -> None:
    code = """
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance().run_line_magic("load_ext", "samovar")
import samovar, samovar.cli
print(sorted({"torch", "jupyter_server", "samovar_server", "samovar_handlers"} & set(sys.modules)))
"""
    done = run_without([*modules_outside(""), "samovar_server", "samovar_handlers"], code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_server_side_runs_on_the_server_extra() -> None:
    code = """
import samovar_server.app, samovar_handlers
print("torch" in sys.modules)
"""
    done = run_without(modules_outside("server"), code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_constraints_pin_all_that_is_installed_and_name_no_place() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
            assert match, f"not a plain pin: {line}"
            pins[canonicalize_name(match[1])] = match[2]
    installed = (installed_by("local") | installed_by("test")) - {"samovar"}
    platform_dependent = {name for name in installed if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert installed - platform_dependent <= set(pins)
