"""The bodies of `POST /v1/models/load`, `estimate`, `unload`, `unload-all` and `clean`, checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from samovar_server.protocol.fields import LoadFields


class LoadRequest(LoadFields):
    """`pin` keeps the model from being evicted (False: no longer, None: as it is).

    `stream` asks for the load's progress as events.
    """

    pin: bool | None = None
    stream: bool = False


class EstimateRequest(LoadFields):
    """A load that is only asked about."""


class UnloadAllRequest(BaseModel):
    """`drain` lets running requests end first, `now` ends them with a typed error."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Literal["drain", "now"] = "drain"


class UnloadRequest(UnloadAllRequest):
    """Which copies to unload: all of `model`, or only those of one backend or device."""

    model: Annotated[str, Field(min_length=1)]
    backend: str | None = None
    device: str | None = None


class CleanRequest(BaseModel):
    """Removing what takes disk space and is no model; `dry_run` only asks what would go."""

    model_config = ConfigDict(extra="forbid", strict=True)

    older_than_days: Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)] = 0.0
    dry_run: bool = False
