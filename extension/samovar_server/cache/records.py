"""What the cache tells of itself: the answers of /v1/models/loaded and /v1/models/stats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from samovar_server.loader.options import LoadProgress
from samovar_server.loader.status import WorkerStatus

State = Literal["starting", "ready", "draining", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A snapshot of one cache entry. Times are Unix seconds; memory is in bytes.

    `revision` is the commit of a snapshot in the Hugging Face cache, None for a model in a folder.
    `evicted` has the cache keys of the models that made room for this one. `error` is why it failed,
    `reason` why it leaves, or what else is to be known of it.
    """

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
    backend_reason: str
    revision: str | None = None
    evicted: list[str] = field(default_factory=list)
    error: str | None = None
    reason: str | None = None


Change = Literal["starting", "progress", "ready", "draining", "stopped", "failed", "evicted", "pinned"]
"""`pinned` also when a pin was taken away: the record tells. The others are states, and what leads there."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """Something that happened to a model; `reason` is a sentence's part or an error's message.

    `seconds` is what a load took that has just become ready, the wait for room included.
    """

    change: Change
    model: LoadedModel
    reason: str | None = None
    progress: LoadProgress | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class QueueLength:
    """Requests of one model: those that its worker has, and those that wait for their turn or the load."""

    cache_key: str
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class TokensCounted:
    """Tokens of a model since the last count: computed of prompts, found in the KV cache, generated, and of
    drafts: computed and accepted."""

    model: str
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LoadEstimate:
    """What a load would take, in bytes, and what would have to happen for it.

    `free_bytes` is what models may take of the device beside those there are. `would_evict` has the cache
    keys of the models that would have to go. `longest_context` is what would fit where this load does
    not: one request at a time, of so many tokens; None when no context length helps. `source` says where
    the model's shape was read: "disk", or "hub" for a model that is not here yet.
    """

    model: str
    backend: str
    device: str
    dtype: str
    quantization: str
    source: Literal["disk", "hub"]
    weights_bytes: int
    kv_bytes_per_token: int
    kv_tokens: int
    context_length: int | None
    slots: int
    overhead_bytes: int
    total_bytes: int
    free_bytes: int
    budget_bytes: int
    fits: bool
    would_evict: list[str]
    longest_context: int | None


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
    share of the latter in both, 0 when none. `draft_tokens` were computed ahead of their time, of which
    `accepted_tokens` were right; `acceptance_rate` is the share of the latter in the former, 0 when none.
    """

    cache_key: str
    running: int
    waiting: int
    prompt_tokens: int
    cached_tokens: int
    prefix_hit_rate: float
    generated_tokens: int
    draft_tokens: int
    accepted_tokens: int
    acceptance_rate: float

    @classmethod
    def from_status(cls, cache_key: str, status: WorkerStatus) -> EngineStats:
        """From a worker's own account of itself."""
        computed, cached = status.prompt_tokens, status.cached_tokens
        return cls(
            cache_key=cache_key,
            running=status.running or 0,
            waiting=status.waiting or 0,
            prompt_tokens=computed,
            cached_tokens=cached,
            prefix_hit_rate=cached / (computed + cached) if cached else 0.0,
            generated_tokens=status.generated_tokens,
            draft_tokens=status.draft_tokens,
            accepted_tokens=status.accepted_tokens,
            acceptance_rate=status.accepted_tokens / status.draft_tokens if status.draft_tokens else 0.0,
        )
