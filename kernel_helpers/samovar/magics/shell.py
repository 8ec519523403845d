"""What both magics need of the shell that they run in."""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import TYPE_CHECKING

from samovar.errors import BadOption, SamovarError, ServerError
from samovar.options import nearest

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from samovar.display import Notice
    from samovar.session import Session


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


def with_nearest_model(error: SamovarError, session: Session, model: str | None) -> SamovarError:
    """`error`; where it says that there is no such model, with the name of the nearest that there is."""
    if not isinstance(error, ServerError) or error.code != "model_not_found" or model is None:
        return error
    near = None
    with suppress(SamovarError):  # the first error is the one to tell
        near = nearest_model(model, [known.id for known in session.models()])
    if near is None:
        return error
    return ServerError(
        f"{error} Did you mean {near}?", status=error.status, code=error.code, param=error.param
    )


def nearest_model(name: str, known: list[str]) -> str | None:
    """The model that `name` was probably meant to be; `known` names may be meant without their owner."""
    short = nearest(name.rpartition("/")[2], [full.rpartition("/")[2] for full in known])
    return next((full for full in known if full.rpartition("/")[2] == short), None)
