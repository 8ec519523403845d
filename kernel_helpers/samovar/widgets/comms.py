"""Lets clicks reach widgets while a cell runs, where ipykernel would hold them back until its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ipywidgets


def hear_in_subshells(parts: Iterable[ipywidgets.Widget]) -> None:
    """Handle the front end's messages to `parts` in the subshell that it sends them to.

    ipykernel 7.4 sends them to the shell that last wrote to the widget instead, for cells that wait for a
    reply (`_reply_subshell_for` in its comm.py). A widget that a cell has made is so deaf while a cell
    runs. The method is not public: other versions, which do as the front end says, do not have it.
    """
    for part in parts:
        if hasattr(part.comm, "_reply_subshell_for"):
            part.comm._reply_subshell_for = _as_sent


def _as_sent(data: Any, subshell: str | None) -> str | None:
    return subshell
