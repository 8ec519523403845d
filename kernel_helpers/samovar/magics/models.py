"""`%samovar`: which models there are and which are in memory, and changing that."""

from __future__ import annotations

import sys
from contextlib import suppress

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class

from samovar.errors import BadOption
from samovar.magics.commands import COMMANDS
from samovar.magics.shell import words
from samovar.options import HelpShown, near_hint

HELP = "See and change which models there are, and which are in memory:\n\n" + "".join(
    f"    %samovar {command.usage:<12}  {command.help}\n" for command in COMMANDS.values()
)


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
            hint = near_hint(name, COMMANDS) or f" It has: {', '.join(COMMANDS)}."
            raise BadOption(f"%samovar has no {name!r}.{hint}")
        with suppress(HelpShown):
            sys.stdout.write(command.run(self._shell, command.parser().parse(rest)) + "\n")


ModelMagics.samovar.__doc__ = HELP
