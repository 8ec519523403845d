"""What the cache tells of itself: the answers of /v1/models/loaded and /v1/models/stats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["starting", "ready", "draining", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A snapshot of one cache entry. Times are Unix seconds; memory is in bytes."""

    cache_key: str
    model: str
    model_path: str
    backend: str
    device: str
    dtype: str
    quantization: str
    state: State
    memory_bytes: int
    in_flight: int
    queued: int
    pinned: bool
    loaded_at: float | None
    last_used: float
    expires_at: float | None
    ttl: float
    ttl_remaining: float | None
    context_length: int | None
    load_seconds: dict[str, float]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of one device, in bytes. `used_bytes` is what resident models take of the budget."""

    device: str
    total_bytes: int
    free_bytes: int
    budget_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counters since the server started, and what is in memory now.

    `total_models_loaded` counts the models in memory, `active_models` those that answer a request
    now. A hit is a request that found its model ready, a miss one that had to wait for a load;
    `hit_rate` is hits / (hits + misses), 0 when none. `evictions` counts models that made room for
    others, not those whose time was over. Memory is in megabytes of 10**6 bytes.
    """

    total_models_loaded: int
    active_models: int
    total_requests_served: int
    cache_hits: int
    cache_misses: int
    hit_rate: float
    evictions: int
    estimated_gpu_memory_mb: float
    estimated_cpu_memory_mb: float
    memory: list[DeviceMemory]
