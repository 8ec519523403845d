"""Where a wait is shown: in the cell that runs, on a terminal, or nowhere."""

from __future__ import annotations

import sys
import threading

from samovar.display import CellLine, CellScreen, Line, LoadLine, Notice
from samovar.progress import ProgressLine
from samovar.records import LoadProgress


class Silence:
    """Shows nothing: of a script whose output goes to a file, or of a thread beside the main one."""

    def show(self, line: str, *, phase: str, fraction: float) -> None:
        """Nothing."""

    def progress(self, progress: LoadProgress) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def notice_here(model: str | None) -> Notice:
    """Where the caller's user sees how far `model` is."""
    name = model or "the model"
    if threading.current_thread() is not threading.main_thread():
        return Silence()
    if in_kernel():
        return CellScreen(name)
    return LoadLine(name) if sys.stderr.isatty() else Silence()


def line_here() -> Line:
    """Where the caller's user sees how far something is."""
    if threading.current_thread() is not threading.main_thread():
        return Silence()
    if in_kernel():
        return CellLine()
    return ProgressLine() if sys.stderr.isatty() else Silence()


def in_kernel() -> bool:
    """Whether this is a notebook's kernel, whose front end can replace what it shows."""
    ipython = sys.modules.get("IPython")  # not imported: then this is no kernel
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
