"""What `%load_ext samovar` brings: `%%generate` and `%samovar`."""

from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell

from samovar.magics.completion import MagicCompleter, ModelNames, model_names, remove_completers
from samovar.magics.generate import GenerateMagics
from samovar.magics.models import ModelMagics


def register(shell: InteractiveShell) -> None:
    """Make the magics known to `shell`, and what Tab completes behind them."""
    generate = GenerateMagics(shell)
    shell.register_magics(generate, ModelMagics(shell))
    MagicCompleter(shell, lambda: generate.conversations, ModelNames(model_names)).install()


def unregister(shell: InteractiveShell) -> None:
    """Take the magics away again."""
    for kind, name in (("cell", "generate"), ("line", "generate"), ("line", "samovar")):
        shell.magics_manager.magics[kind].pop(name, None)
    remove_completers(shell)
