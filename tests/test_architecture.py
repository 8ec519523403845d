"""The rules of ARCHITECTURE.md, checked on the source: who may import whom, and that the map is complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.imports import Import, imports_of, module_name, sources

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
HOMES = [ROOT / "extension", ROOT / "server_handlers", ROOT / "kernel_helpers"]

MODULES = {module_name(file, home): file for home in HOMES for file in sources(home)}

# Who may import whom. A name stands for the module and all below it; the longest one that fits counts.
# What a part does not name, it may not import (a part may always import itself).
MAY_IMPORT: dict[str, set[str]] = {
    # a kernel: speaks HTTP with the server, and shares no code with it
    "samovar": set(),
    # the routes: check, call the workbench, answer
    "samovar_handlers": {
        "samovar_server.cache.lease",
        "samovar_server.cache.records",
        "samovar_server.callers",
        "samovar_server.downloader.job",
        "samovar_server.errors",
        "samovar_server.events",
        "samovar_server.forwarding",
        "samovar_server.loader.options",
        "samovar_server.metrics",
        "samovar_server.protocol",
        "samovar_server.relay",
        "samovar_server.quotas",
        "samovar_server.sharing",
        "samovar_server.usage",
        "samovar_server.versions",
        "samovar_server.workbench",
        "samovar_server.request_log",
    },
    # the machine room, from the bottom up
    "samovar_server.errors": set(),
    "samovar_server.callers": set(),
    "samovar_server.fairness": {"samovar_server.errors"},
    "samovar_server.usage": {"samovar_server.quotas.window"},
    "samovar_server.quotas": {"samovar_server.callers", "samovar_server.errors"},
    "samovar_server.sharing": {
        "samovar_server.cache.lease",
        "samovar_server.callers",
        "samovar_server.errors",
        "samovar_server.fairness",
        "samovar_server.loader.options",
        "samovar_server.metrics",
        "samovar_server.protocol.place",
        "samovar_server.quotas",
        "samovar_server.usage",
    },
    "samovar_server.discovery": set(),
    "samovar_server.versions": set(),
    "samovar_server.request_log": set(),
    "samovar_server.events": {"samovar_server.callers"},
    "samovar_server.forwarding": {"samovar_server.errors"},
    "samovar_server.metrics": {"samovar_server.cache.records", "samovar_server.downloader.job"},
    "samovar_server.inventory": {"samovar_server.errors"},
    "samovar_server.protocol": {"samovar_server.errors", "samovar_server.loader.options"},
    "samovar_server.loader": {
        "samovar_server.errors",
        "samovar_server.inventory",
        "samovar_server.backends.base",
    },
    "samovar_server.backends": {"samovar_server.errors", "samovar_server.inventory", "samovar_server.loader"},
    "samovar_server.backends.remote": {
        "samovar_server.backends.base",
        "samovar_server.cache.lease",
        "samovar_server.cache.records",
        "samovar_server.errors",
        "samovar_server.loader",
    },
    "samovar_server.cache": {"samovar_server.errors", "samovar_server.inventory", "samovar_server.loader"},
    "samovar_server.workbench": {
        "samovar_server.backends",
        "samovar_server.cache",
        "samovar_server.downloader",
        "samovar_server.errors",
        "samovar_server.events",
        "samovar_server.inventory",
        "samovar_server.loader",
        "samovar_server.callers",
        "samovar_server.metrics",
        "samovar_server.protocol.adapters",
        "samovar_server.sharing",
        "samovar_server.diagnosis",
        "samovar_server.shelf",
        "samovar_server.usage",
        "samovar_server.request_log",
    },
    "samovar_server.diagnosis": {"samovar_server.loader.spare"},
    "samovar_server.shelf": {"samovar_server.errors", "samovar_server.inventory", "samovar_server.loader"},
    "samovar_server.relay": {
        "samovar_server.cache.lease",
        "samovar_server.cache.records",
        "samovar_server.errors",
        "samovar_server.loader.dialect",
        "samovar_server.loopback",
    },
    "samovar_server.loopback": set(),
    # the composition roots, which know the routes
    "samovar_server.app": {"samovar_server", "samovar_handlers"},
    "samovar_server.hub": {"samovar_server", "samovar_handlers"},
    "samovar_server.__main__": {"samovar_server.app"},
    "samovar_server": {"samovar_server.app"},
    # other processes: a worker, a download
    "samovar_server.engine": {
        "samovar_server.errors",
        "samovar_server.protocol",
        "samovar_server.loader.failure",
        "samovar_server.loader.spec",
        "samovar_server.workers.pipes",
    },
    "samovar_server.workers": {
        "samovar_server.errors",
        "samovar_server.loader.failure",
        "samovar_server.loader.spec",
    },
    "samovar_server.downloader": {
        "samovar_server.callers",
        "samovar_server.errors",
        "samovar_server.inventory",
        "samovar_server.loader.child",
        "samovar_server.loader.gguf",
    },
}

# Imported only where a process of its own runs them, never in the server or in a kernel.
HEAVY = {"accelerate", "bitsandbytes", "gguf", "safetensors", "torch", "transformers", "xllamacpp"}
MAY_IMPORT_HEAVY = (
    "samovar_server.engine",
    "samovar_server.downloader.convert",
    "samovar_server.workers.llamacpp",
)
SERVER_PROCESSES_START_AT = {"samovar_server.app", "samovar_server.hub.service"}
NOT_IN_A_KERNEL = {"jupyter_server", "tornado", *HEAVY}


def is_part_of(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def part_of(module: str) -> str:
    return max((part for part in MAY_IMPORT if is_part_of(module, part)), key=len)


def imports(module: str) -> Iterator[tuple[Import, str | None]]:
    """The imports of one of our modules; with the module meant where that is ours, too."""
    for found in imports_of(MODULES[module]):
        ours = [name for name in (found.module, found.module.rpartition(".")[0]) if name in MODULES]
        assert ours or not found.top.startswith("samovar"), f"{module} imports {found.module}: no such module"
        yield found, ours[0] if ours else None


def internal_imports(module: str, *, deferred: bool) -> set[str]:
    """Our own modules that `module` runs by being imported (or may run at all, with `deferred`)."""
    found = {ours for it, ours in imports(module) if ours is not None and (deferred or not it.deferred)}
    return found - {module}


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_one_way(module: str) -> None:
    part = part_of(module)
    for found, ours in imports(module):
        if ours is None or part_of(ours) == part:
            continue
        assert any(is_part_of(ours, allowed) for allowed in MAY_IMPORT[part]), (
            f"{found.file.relative_to(ROOT)}:{found.line}: {part} may not import {ours}"
        )


def test_engine_is_imported_by_itself_only() -> None:
    inside = {m for m in MODULES if is_part_of(m, "samovar_server.engine")}
    for module in MODULES.keys() - inside:
        assert not internal_imports(module, deferred=True) & inside, module


def test_only_worker_and_converter_import_torch() -> None:
    for module in MODULES:
        heavy = {found.top for found, _ in imports(module)} & HEAVY
        assert not heavy or module.startswith(MAY_IMPORT_HEAVY), f"{module} imports {heavy}"


def test_server_process_cannot_reach_torch() -> None:
    """Whatever the server calls: no chain of imports, deferred ones included, ends at torch."""
    reached: set[str] = set()
    todo = set(SERVER_PROCESSES_START_AT)
    while todo:
        module = todo.pop()
        reached.add(module)
        todo |= internal_imports(module, deferred=True)
        todo |= {parent for parent in (module.rpartition(".")[0],) if parent}
        todo -= reached
    assert {"samovar_server.workbench", "samovar_handlers.routes"} <= reached  # the walk works
    assert not [m for m in reached if {found.top for found, _ in imports(m)} & HEAVY]


def test_kernel_side_imports_no_server_and_no_torch() -> None:
    for module in (m for m in MODULES if is_part_of(m, "samovar")):
        assert not {found.top for found, _ in imports(module)} & NOT_IN_A_KERNEL, module


def test_no_cycles() -> None:
    graph = {module: internal_imports(module, deferred=False) for module in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, naming the cycle


def drawn() -> set[Path]:
    """Files and folders on the map of ARCHITECTURE.md: trees in which depth is two spaces."""
    found: set[Path] = set()
    for tree in re.findall(r"```text\n(.*?)```", MAP, flags=re.DOTALL):
        trail: list[str] = []
        for line in tree.splitlines():
            depth = (len(line) - len(line.lstrip())) // 2
            trail[depth:] = [line.split()[0].rstrip("/")]
            found.add(ROOT.joinpath(*trail))
    return found


def test_map_is_the_territory() -> None:
    files = {f for f in MODULES.values() if f.name not in {"__init__.py", "__main__.py"}}
    folders = {f.parent for f in MODULES.values() if f.name == "__init__.py"}
    missing, gone = (files | folders) - drawn(), drawn() - (files | folders)
    assert not missing, f"ARCHITECTURE.md does not show {sorted(map(str, missing))}"
    assert not gone, f"ARCHITECTURE.md shows {sorted(map(str, gone))}, which is not there"
