"""`samovar list`, `ps` and `stop`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

from samovar.errors import BadOption
from samovar.session import current_session
from samovar.tables import loaded_table, models_table, unloaded_line


def list_models(options: Namespace) -> int:
    """Print the models on this machine."""
    sys.stdout.write(models_table(current_session().models()) + "\n")
    return 0


def ps(options: Namespace) -> int:
    """Print the models in memory."""
    sys.stdout.write(loaded_table(current_session().loaded()) + "\n")
    return 0


def stop(options: Namespace) -> int:
    """Free the memory of one model or of all."""
    if options.all == (options.model is not None):
        raise BadOption("Name one model to stop, or --all. `samovar ps` lists those in memory.")
    session = current_session()
    if options.all:
        unloaded = session.unload_all(now=options.now)
    else:
        unloaded = session.unload(options.model, now=options.now)
    sys.stdout.write(unloaded_line(unloaded) + "\n")
    return 0


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {"list": list_models, "ps": ps, "stop": stop}
