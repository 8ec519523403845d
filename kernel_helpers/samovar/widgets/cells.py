"""Which cell shows which widgets, so that running it anew ends those that it replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samovar.widgets.panel import Panel

_shown: dict[str, tuple[str, list[Panel]]] = {}
"""By the cell's id: the message that ran it last, and the widgets that it displayed then."""


def replace_in_cell(panel: Panel) -> None:
    """Note that the cell which runs now displays `panel`; close what an earlier run of it displayed.

    Nothing tells the kernel that an output has gone, and threads would go on for it for ever. Front ends
    that do not name their cells (the Jupyter protocol does not ask for it) leave it to `close`.
    """
    cell, run = _running()
    if cell is None:
        return
    last_run, panels = _shown.get(cell, ("", []))
    if last_run != run:
        for old in panels:
            if old is not panel:
                old.close()
        panels = []
    _shown[cell] = (run, [*panels, panel])


def _running() -> tuple[str | None, str]:
    from IPython.core.getipython import get_ipython

    get_parent = getattr(get_ipython(), "get_parent", None)
    message: dict[str, Any] = get_parent() if get_parent is not None else {}
    return message.get("metadata", {}).get("cellId"), message.get("header", {}).get("msg_id", "")
