"""What the server tells of its models, as typed records. Fields that are not known here are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class _Record:
    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The record in `told`; a newer server may tell more than this version knows."""
        return cls(**{field.name: told[field.name] for field in fields(cls) if field.name in told})


@dataclass(frozen=True, slots=True)
class Model(_Record):
    """A model that requests can name. `created` is Unix seconds, 0 when unknown."""

    id: str
    created: int = 0
    owned_by: str = ""
    loaded: bool = False


@dataclass(frozen=True, slots=True)
class LoadedModel(_Record):
    """A model in memory, or on its way there or away.

    Times are Unix seconds, `ttl` and `ttl_remaining` seconds (None: it stays), memory is in bytes.
    """

    model: str
    state: str
    backend: str = ""
    device: str = ""
    dtype: str = ""
    quantization: str = "none"
    memory_bytes: int = 0
    in_flight: int = 0
    queued: int = 0
    pinned: bool = False
    loaded_at: float | None = None
    ttl: float | None = None
    ttl_remaining: float | None = None
    context_length: int | None = None
    load_seconds: Mapping[str, float] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LoadProgress(_Record):
    """How far a load is. `fraction` runs from 0 to 1 over the whole of it."""

    phase: str
    fraction: float
    bytes_done: int = 0
    bytes_total: int = 0
