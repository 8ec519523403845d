"""What the server tells of its models, as typed records. Fields that are not known here are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class _Record:
    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The record in `told`; a newer server may tell more than this version knows."""
        return cls(**{known.name: told[known.name] for known in fields(cls) if known.name in told})


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
    cache_key: str = ""
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
    revision: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LoadOptions(_Record):
    """How a model is to be loaded. None leaves a choice to the server.

    `context_length` is in tokens, `memory_bytes` what the load is to be counted with where the estimate is
    wrong. The rest are options of single engines, in their words: llama.cpp's `n_ctx` and `n_gpu_layers`,
    vLLM's `max_model_len` and its share of the GPU's memory (0.1 to 1).
    """

    backend: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    memory_bytes: int | None = None
    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceMemory(_Record):
    """Memory of one device, in bytes. `used_bytes` is what models take of the budget that they have."""

    device: str
    total_bytes: int = 0
    free_bytes: int = 0
    budget_bytes: int = 0
    used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Estimate(_Record):
    """What a load would take, in bytes, and which models would have to go for it."""

    total_bytes: int
    device: str
    free_bytes: int
    fits: bool
    weights_bytes: int = 0
    kv_bytes_per_token: int = 0
    context_length: int | None = None
    would_evict: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LoadProgress(_Record):
    """How far a load is. `fraction` runs from 0 to 1 over the whole of it."""

    phase: str
    fraction: float
    bytes_done: int = 0
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class FileProgress(_Record):
    """How many bytes of one file of a download are here."""

    path: str
    bytes_done: int = 0
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class Download(_Record):
    """A download, whatever has become of it. `status`: pending, downloading, completed, failed, cancelled.

    Times are Unix seconds; `eta_seconds` is None while nothing can be said. `path` is where the model
    lies once it is complete.
    """

    job_id: str
    status: str
    url: str
    revision: str | None = None
    destination: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    completed_at: float | None = None
    duration_seconds: float | None = None
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_per_second: float = 0.0
    eta_seconds: float | None = None
    files_total: int = 0
    files_downloaded: int = 0
    current_file: str | None = None
    files: Sequence[FileProgress] = ()
    path: str | None = None
    message: str = ""
    error: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it by itself."""
        return self.status in {"completed", "failed", "cancelled"}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The record in `told`, with that of each file."""
        files = tuple(FileProgress.from_json(file) for file in told.get("files", ()))
        return super(Download, cls).from_json({**told, "files": files})


@dataclass(frozen=True, slots=True)
class RepoCheck(_Record):
    """What a download would bring. `status` is ok, or the code of what stands in the way; see `message`."""

    status: str
    repo_id: str
    revision: str | None = None
    gated: bool | None = None
    total_files: int = 0
    matched_files: int = 0
    total_bytes: int = 0
    sample_files: Sequence[str] = ()
    quantizations: Sequence[str] = ()
    free_disk_bytes: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class StoredModel(_Record):
    """A model on the server's disk, or an adapter. `last_used` is in Unix seconds.

    `model_type`: transformers, gguf, adapter, unknown.
    """

    model_name: str
    model_path: str
    total_size_bytes: int = 0
    file_count: int = 0
    model_type: str = "unknown"
    recommended_backend: str | None = None
    revision: str | None = None
    complete: bool = True
    source: str = ""
    last_used: float | None = None
    files: Sequence[Mapping[str, Any]] = ()
    config_metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Leftover(_Record):
    """What takes disk space and is no model. `kind`: partial, orphan, conversion."""

    kind: str
    path: str
    model: str = ""
    size_bytes: int = 0
    modified: float = 0.0


@dataclass(frozen=True, slots=True)
class Cleaning(_Record):
    """What was removed from the server's disk, or would be, and what stays as it is in use."""

    removed: Sequence[Leftover] = ()
    in_use: Sequence[Leftover] = ()
    freed_bytes: int = 0

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The record in `told`, with that of each leftover."""
        lists = {name: tuple(map(Leftover.from_json, told[name])) for name in ("removed", "in_use")}
        return super(Cleaning, cls).from_json({**told, **lists})


@dataclass(frozen=True, slots=True)
class FoundModel(_Record):
    """A model on the Hugging Face Hub. Sizes are bytes of weights, None where the Hub does not say."""

    id: str
    size_bytes: int | None = None
    parameters: int | None = None
    fits: bool | None = None
    downloads: int | None = None
    likes: int | None = None
    gated: bool = False
    model_type: str = "unknown"
    on_disk: bool = False


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of a text and its natural log-probability, None for the first, which nothing comes before.

    `alternatives` are the likeliest tokens at its place, the likeliest first, with theirs.
    """

    text: str
    logprob: float | None
    alternatives: Sequence[tuple[str, float]] = ()

    @classmethod
    def from_logprobs(cls, told: Mapping[str, Any]) -> list[Self]:
        """The tokens in the `logprobs` object of a completion."""
        return [
            cls(text, logprob, tuple(sorted((top or {}).items(), key=lambda pair: -pair[1])))
            for text, logprob, top in zip(
                told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True
            )
        ]

    @classmethod
    def from_chat(cls, told: Mapping[str, Any]) -> Self:
        """The token in one item of a chat answer's `logprobs`."""
        likeliest = ((top["token"], top["logprob"]) for top in told["top_logprobs"])
        return cls(told["token"], told["logprob"], tuple(likeliest))


@dataclass(frozen=True, slots=True)
class Folder(_Record):
    """A folder for models on the server's disk. `free_bytes` is what the disk has left, where known."""

    path: str
    exists: bool = True
    writable: bool = True
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis(_Record):
    """How a server is. `engine_problem`: why no model can be run; `spare`: how its spare worker is."""

    folders: Sequence[Folder] = ()
    engine_problem: str | None = None
    spare: str = "off"
    default_model: str = ""
    default_model_here: bool = True

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The record in `told`, with that of each folder."""
        folders = tuple(Folder.from_json(folder) for folder in told.get("folders", ()))
        return super(Diagnosis, cls).from_json({**told, "folders": folders})


OPEN = "open"
"""The kind of a stream's first event, which is not the server's: from here on nothing is missed."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `kind` is "open", or the server's: "model", "download", "queue", "missed"."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
