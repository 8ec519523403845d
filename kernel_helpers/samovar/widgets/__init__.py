"""Widgets for notebooks: models in memory, choosing and downloading them, chats, comparisons, tokens.

They work while a cell runs, and are there for JupyterLab and Notebook alike.
"""

from __future__ import annotations

from samovar.widgets.chat import Chat
from samovar.widgets.compare import Compare
from samovar.widgets.downloads import Downloads
from samovar.widgets.manager import Manager
from samovar.widgets.picker import Picker
from samovar.widgets.token_view import TokenView

__all__ = ["Chat", "Compare", "Downloads", "Manager", "Picker", "TokenView"]
