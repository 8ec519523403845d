"""samovar in a notebook: magics, client and command line. Imports neither torch nor the server.

`%load_ext samovar` brings `%%generate` and `%samovar`. In Python:

    samovar.generate("Why is the sky blue?", max_tokens=60).text
    samovar.client()          # an openai.OpenAI that is already connected

`chat` and `stream` generate, too, `load` brings a model into memory, `use` chooses the model for what names
none, and `samovar.aio` has the same for `await`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from samovar.defaults import use
from samovar.errors import (
    BadAnswer,
    BadOption,
    BadPrompt,
    ConnectionLost,
    Interrupted,
    NoServer,
    SamovarError,
    ServerError,
)

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from samovar import aio
    from samovar.api import chat, generate, load, stream
    from samovar.clients import async_client, client
    from samovar.rows import map_rows as map  # noqa: A004 - `samovar.map` is how it is called

__all__ = [
    "BadAnswer",
    "BadOption",
    "BadPrompt",
    "ConnectionLost",
    "Interrupted",
    "NoServer",
    "SamovarError",
    "ServerError",
    "aio",
    "async_client",
    "chat",
    "client",
    "generate",
    "load",
    "map",
    "stream",
    "use",
]

_HOMES = {
    **dict.fromkeys(("chat", "generate", "load", "stream"), "samovar.api"),
    **dict.fromkeys(("async_client", "client"), "samovar.clients"),
    "map": "samovar.rows",
}
"""Where names are that are imported when they are first used: they bring an HTTP client with them."""


_NAMES = {"map": "map_rows"}
"""What is called otherwise at home, where it must not hide a builtin."""


def __getattr__(name: str) -> Any:
    if name == "aio":
        return import_module("samovar.aio")
    if name not in _HOMES:
        raise AttributeError(f"module 'samovar' has no attribute {name!r}", name=name)
    return getattr(import_module(_HOMES[name]), _NAMES.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext samovar`."""
    from samovar.magics import register

    register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext samovar`."""
    from samovar.magics import unregister

    unregister(shell)
