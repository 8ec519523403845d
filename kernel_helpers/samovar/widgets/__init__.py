"""Widgets for notebooks: models in memory, choosing and downloading them. They work while a cell runs."""

from __future__ import annotations

from samovar.widgets.downloads import Downloads
from samovar.widgets.manager import Manager
from samovar.widgets.picker import Picker

__all__ = ["Downloads", "Manager", "Picker"]
