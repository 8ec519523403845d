"""The model that requests of this kernel mean when they name none; `%samovar use` sets it."""

from __future__ import annotations

_model: str | None = None


def use(model: str | None) -> None:
    """From now on requests that name no model mean `model`; None: the server's default."""
    global _model
    _model = model


def model_in_use() -> str | None:
    """What `use` was told last."""
    return _model
