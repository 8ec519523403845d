"""Imports as the source states them, at any level, without running it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One imported module. `deferred` means inside a function: it runs only when that is called."""

    file: Path
    line: int
    module: str
    deferred: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def sources(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.exists() else []


def module_name(file: Path, root: Path) -> str:
    """`root/a/b.py` is a.b, `root/a/__init__.py` is a."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[Import]:
    """Imports of one file, but for those that only the type checker sees.

    `from a import b` is told as a.b, since b may be a module. Relative imports are not resolved:
    ruff's TID rules and the house style keep them out.
    """
    yield from _walk(ast.parse(file.read_text(encoding="utf-8"), str(file)), file, deferred=False)


def third_party_imports(place: Path) -> Iterator[Import]:
    for file in sources(place):
        for found in imports_of(file):
            if found.top not in sys.stdlib_module_names and found.top != "__future__":
                yield found


def _walk(node: ast.AST, file: Path, *, deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(file, child.lineno, alias.name, deferred)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{file}:{child.lineno}: relative import"
            for alias in child.names:
                yield Import(file, child.lineno, f"{child.module}.{alias.name}", deferred)
        elif not _is_type_checking(child):
            inside = deferred or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _walk(child, file, deferred=inside)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
