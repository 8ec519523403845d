"""`%samovar`: which models are in memory, and changing that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class

from samovar.errors import BadOption
from samovar.magics.shell import notice, words
from samovar.options import HelpShown, OptionParser, nearest, number

if TYPE_CHECKING:
    from samovar.session import Session

HELP = """\
See and change which models are in memory:

    %samovar status          the server that is used, and the models in its memory
    %samovar ps              the models in memory
    %samovar models          the models that can be named
    %samovar load NAME       bring a model into memory; --ttl SECONDS: how long it then stays
                             unused (0: for ever), --pin: never make room by unloading it
    %samovar unload NAME     free its memory once its running requests have ended; --now: at once
"""


@magics_class
class ModelMagics(Magics):
    """`%samovar`."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell)
        self._shell = shell

    @line_magic
    def samovar(self, line: str) -> None:
        """See and change which models are in memory. (The help of the commands replaces this.)"""
        name, *rest = words(line) or ["status"]
        if name in {"help", "--help", "-h"}:
            sys.stdout.write(HELP)
            return
        command = COMMANDS.get(name)
        if command is None:
            near = nearest(name, COMMANDS)
            hint = f"Did you mean {near}?" if near else f"It has: {', '.join(COMMANDS)}."
            raise BadOption(f"%samovar has no {name!r}. {hint}")
        with suppress(HelpShown):
            sys.stdout.write(command(self._shell, rest) + "\n")


def status(shell: InteractiveShell, rest: list[str]) -> str:
    """The server that is used, and what is in its memory."""
    server = _session().server
    return f"{server.url} (found through {server.source})\n{ps(shell, rest)}"


def ps(shell: InteractiveShell, rest: list[str]) -> str:
    """The models in memory."""
    from samovar.tables import loaded_table

    OptionParser("%samovar ps").parse(rest)
    return loaded_table(_session().loaded())


def models(shell: InteractiveShell, rest: list[str]) -> str:
    """The models that can be named."""
    from samovar.tables import models_table

    OptionParser("%samovar models").parse(rest)
    return models_table(_session().models())


def load(shell: InteractiveShell, rest: list[str]) -> str:
    """Bring a model into memory."""
    from samovar.tables import loaded_line

    parser = OptionParser("%samovar load")
    parser.add_argument("model")
    parser.add_argument("--ttl", type=number)
    parser.add_argument("--pin", action="store_true")
    options = parser.parse(rest)
    with closing(notice(shell, options.model)) as way:
        loaded = _session().load(
            options.model, ttl=options.ttl, pin=options.pin or None, on_progress=way.progress
        )
    return loaded_line(loaded)


def unload(shell: InteractiveShell, rest: list[str]) -> str:
    """Free a model's memory."""
    from samovar.tables import unloaded_line

    parser = OptionParser("%samovar unload")
    parser.add_argument("model")
    parser.add_argument("--now", action="store_true")
    options = parser.parse(rest)
    return unloaded_line(_session().unload(options.model, now=options.now))


COMMANDS: Mapping[str, Callable[[InteractiveShell, list[str]], str]] = {
    "status": status,
    "ps": ps,
    "models": models,
    "load": load,
    "unload": unload,
}


def _session() -> Session:
    from samovar.session import current_session

    return current_session()


ModelMagics.samovar.__doc__ = HELP
