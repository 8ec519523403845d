"""What both magics need of the shell that they run in."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from samovar.errors import BadOption

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from samovar.display import Notice


def words(line: str) -> list[str]:
    """The words of a magic's line, as a Unix shell would split them."""
    try:
        return shlex.split(line)
    except ValueError:
        raise BadOption(
            'A quote is not closed in the line of the magic. Write --system "two words".'
        ) from None


def in_notebook(shell: InteractiveShell) -> bool:
    """Whether what is shown can be replaced later, as a kernel's front end can and a terminal cannot."""
    return getattr(shell, "kernel", None) is not None


def notice(shell: InteractiveShell, model: str) -> Notice:
    """Where to say how far the load of `model` is."""
    from samovar.display import CellScreen, LoadLine

    return CellScreen(model) if in_notebook(shell) else LoadLine(model)
