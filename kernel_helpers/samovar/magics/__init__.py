"""What `%load_ext samovar` brings: `%%generate` and `%samovar`."""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell

from samovar.magics.generate import GenerateMagics
from samovar.magics.models import ModelMagics


def register(shell: InteractiveShell) -> None:
    """Make the magics known to `shell`."""
    shell.register_magics(GenerateMagics(shell), ModelMagics(shell))


def unregister(shell: InteractiveShell) -> None:
    """Take the magics away again."""
    for kind, name in (("cell", "generate"), ("line", "generate"), ("line", "samovar")):
        shell.magics_manager.magics[kind].pop(name, None)
