"""The versions of what runs here, read from what is installed: nothing of it is imported."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PARTS = ("samovar", "jupyter_server", "torch", "transformers", "xllamacpp")
"""What an answer depends on, as distributions."""


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of those PARTS that are installed."""
    found = {"python": platform.python_version()}
    for part in PARTS:
        try:
            found[part] = version(part)
        except PackageNotFoundError:
            continue  # an optional part that is not here
    return found
