"""What the cache tells of itself: the answers of /v1/models/loaded and /v1/models/stats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from samovar_server.loader.options import LoadProgress

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


Change = Literal["starting", "progress", "ready", "draining", "stopped", "failed", "evicted", "pinned"]
    backend_reason: str
    evicted: list[str] = field(default_factory=list)
"""`pinned` also when a pin was taken away: the record tells. The others are states, and what leads there."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """Something that happened to a model; `reason` is a sentence's part or an error's message."""

    change: Change
    model: LoadedModel
    reason: str | None = None
    progress: LoadProgress | None = None


@dataclass(frozen=True, slots=True)
class QueueLength:
    """Requests of one model: those that hold a lease, and those that wait for one."""

    cache_key: str
    running: int
    waiting: int


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


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """Where a ready model's worker answers, and the secret that it asks for."""

    cache_key: str
    url: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What one worker's engine does now and has done since it started, in sequences and tokens.

    `prompt_tokens` were computed, `cached_tokens` were found in the KV cache; `prefix_hit_rate` is the
    share of the latter in both, 0 when none.
    """

    cache_key: str
    running: int
    waiting: int
    prompt_tokens: int
    cached_tokens: int
    prefix_hit_rate: float
    generated_tokens: int

    @classmethod
    def from_status(cls, cache_key: str, status: Mapping[str, Any]) -> EngineStats:
        """From a worker's answer to `GET /status`."""
        computed, cached = int(status["prompt_tokens"]), int(status["cached_tokens"])
        return cls(
            cache_key=cache_key,
            running=int(status["running"]),
            waiting=int(status["waiting"]),
            prompt_tokens=computed,
            cached_tokens=cached,
            prefix_hit_rate=cached / (computed + cached) if cached else 0.0,
            generated_tokens=int(status["generated_tokens"]),
        )
