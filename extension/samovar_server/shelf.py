"""The inventory: what `GET /v1/models/inventory` tells of the models on disk, and taking them off it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, scan_cache_dir

from samovar_server.errors import Conflict, InvalidRequest, LoadFailed, ModelNotFound
from samovar_server.inventory.catalogue import Stored, StoredFile, catalogue, total_size
from samovar_server.inventory.gguf_names import tag_of
from samovar_server.inventory.partials import Partial, list_partials, remove_partials
from samovar_server.inventory.references import ModelReference, parse_reference
from samovar_server.loader.estimate import parameter_count, read_shape
from samovar_server.loader.gguf import read_header

BACKENDS = {"transformers": "transformers", "gguf": "llamacpp", "unknown": None}

Key = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A line of the inventory: the model, and what its own files say of it."""

    stored: Stored
    details: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As API.md has it. `last_used` is when its files were last read, in Unix seconds."""
        stored = self.stored
        return {
            "model_name": stored.name,
            "model_path": str(stored.path),
            "total_size_bytes": stored.size,
            "total_size_gb": stored.size / 1e9,
            "file_count": len(stored.files),
            "files": [_file_as_json(file, stored.path) for file in stored.files],
            "model_type": stored.kind,
            "recommended_backend": BACKENDS[stored.kind] if stored.complete else None,
            "has_config": any(file.path.name == "config.json" for file in stored.files),
            "config_metadata": dict(self.details),
            "revision": stored.revision,
            "complete": stored.complete,
            "source": stored.source,
            "last_used": max((file.accessed for file in stored.files), default=None),
        }


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it. Sizes count what models share once; partials are what downloads have left."""

    models: tuple[StoredModel, ...]
    partials: tuple[Partial, ...]

    @property
    def total_size(self) -> int:
        """Bytes of all models."""
        return total_size([model.stored for model in self.models])


class Shelf:
    """The model folders and the Hugging Face cache. Methods read the disk; threads may share it."""

    def __init__(self, folders: Sequence[Path], aliases: Mapping[str, str]) -> None:
        self._folders = folders
        self._aliases = aliases
        self._known: dict[Path, tuple[Key, Mapping[str, Any]]] = {}
        self._lock = threading.Lock()

    def inventory(self) -> Inventory:
        """Look at the disk; headers are read again only of files that have changed."""
        models = tuple(StoredModel(stored, self._details(stored)) for stored in catalogue(self._folders))
        return Inventory(models, tuple(list_partials(self._folders)))

    def clean(self, *, before: float) -> list[Partial]:
        """Remove what downloads have left that nobody has written to since `before` (Unix seconds)."""
        return remove_partials(self._folders, before=before)

    def find(self, text: str) -> list[Path]:
        """The folders or files that deleting `text` would remove. Raises InvalidRequest, ModelNotFound."""
        reference = parse_reference(text, self._aliases)
        wanted = [model for model in catalogue(self._folders) if _is_meant(model, reference)]
        if not wanted:
            raise ModelNotFound(
                f"There is no model {text!r} on this machine. GET /v1/models/inventory lists what is.",
                param="model",
            )
        if reference.file is not None and any(model.source == "hub-cache" for model in wanted):
            raise InvalidRequest(
                f"One file of a repo in the Hugging Face cache cannot be deleted: delete {reference.name}.",
                param="model",
            )
        if reference.file is not None:
            return [file.path for model in wanted for file in model.files]
        return list(dict.fromkeys((model.folder or model.path) for model in wanted))

    def delete(self, paths: Sequence[Path], resident: Collection[Path]) -> int:
        """Remove what `find` has found, and say how many bytes are free now.

        Raises Conflict when a model in memory lies there.
        """
        used = [path for path in resident if any(path == gone or gone in path.parents for gone in paths)]
        if used:
            raise Conflict(
                "The model is in memory: unload it first (POST /v1/models/unload), then delete it."
            )
        cache = Path(constants.HF_HUB_CACHE)
        commits = [path.name for path in paths if path.is_relative_to(cache)]
        freed = 0
        if commits:
            # It knows which blobs other revisions still need, and takes empty repos away too.
            strategy = scan_cache_dir(cache).delete_revisions(*commits)
            strategy.execute()
            freed += strategy.expected_freed_size
        for path in paths:
            if path.is_relative_to(cache):
                continue
            freed += sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return freed

    def _details(self, stored: Stored) -> Mapping[str, Any]:
        key = tuple((str(file.path), file.modified_ns, file.size) for file in stored.files)
        with self._lock:
            known = self._known.get(stored.path)
        if known is not None and known[0] == key:
            return known[1]
        details = _read_details(stored)
        with self._lock:
            self._known[stored.path] = (key, details)
        return details


def _read_details(stored: Stored) -> Mapping[str, Any]:
    """What the headers of a complete model say; nothing of one that is damaged or incomplete."""
    try:
        if not stored.complete or stored.kind == "unknown":
            return {}
        if stored.kind == "gguf":
            header = read_header([file.path for file in stored.files])
            told: dict[str, Any] = {
                "architecture": header.architecture,
                "parameters": header.elements,
                "context_length": header.max_context,
                "quantization": tag_of(stored.path.name),
            }
        else:
            shape = read_shape(stored.path)
            told = {
                "parameters": parameter_count(stored.path),
                "context_length": shape.max_context,
                "dtype": shape.dtype,
                "quantization": None,
            }
        return told
    except LoadFailed:
        return {}
    finally:
        # Reading a header is no use of the model: its files keep the time of their last one.
        for file in stored.files:
            with suppress(OSError):  # another user's file
                os.utime(file.path, ns=(int(file.accessed * 1e9), file.modified_ns))


def _is_meant(model: Stored, reference: ModelReference) -> bool:
    name, _, file = model.name.partition(":")
    repo, _, commit = name.partition("@")
    if reference.name not in (repo, str(model.folder or model.path)):
        return False
    if reference.file is not None and file.lower() != reference.file.lower():
        return False
    return reference.revision in (None, commit, model.revision)


def _file_as_json(file: StoredFile, root: Path) -> dict[str, Any]:
    path = file.path.relative_to(root) if file.path.is_relative_to(root) else Path(file.path.name)
    return {
        "path": "" if path == Path() else path.as_posix(),
        "filename": file.path.name,
        "size_bytes": file.size,
        "size_mb": file.size / 1e6,
        "size_gb": file.size / 1e9,
        "file_type": file.path.suffix.removeprefix(".").lower(),
        "quantization": tag_of(file.path.name),
    }
