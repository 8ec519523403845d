"""The machine room of samovar: cache, loader, backends, engine, downloader, inventory.

Nothing here knows of HTTP routes (that is `samovar_handlers`) or of notebooks (that is `samovar`).
"""

from importlib.metadata import version
from typing import Any

__version__ = version("samovar")


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Where Jupyter Server finds the extension; imported late, so that workers need no server."""
    from samovar_server.app import SamovarApp

    return [{"module": "samovar_server.app", "app": SamovarApp}]
