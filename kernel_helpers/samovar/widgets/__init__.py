"""Widgets for notebooks: models in memory. They work while a cell runs."""

from __future__ import annotations

from samovar.widgets.manager import Manager

__all__ = ["Manager"]
