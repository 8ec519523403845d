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
from samovar_server.inventory.adapters import base_of, rank_of
from samovar_server.inventory.catalogue import Stored, StoredFile, catalogue, total_size
from samovar_server.inventory.cleaning import Cleaning, clean
from samovar_server.inventory.conversions import conversion_of
from samovar_server.inventory.gguf_names import tag_of
from samovar_server.inventory.leftovers import Leftover, list_leftovers
from samovar_server.inventory.licence import licence_in
from samovar_server.inventory.references import ModelReference, parse_reference
from samovar_server.loader.estimate import parameter_count, read_shape
from samovar_server.loader.gguf import read_header

BACKENDS = {"transformers": "transformers", "gguf": "llamacpp", "adapter": None, "unknown": None}

Key = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A line of the inventory: the model, what its own files say of it, and what was made of it.

    `conversion` is the folder with the safetensors that were made of a model in GGUF, and its bytes.
    """

    stored: Stored
    details: Mapping[str, Any]
    conversion: tuple[Path, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """As API.md has it. `last_used` is in Unix seconds."""
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
            "conversion": self._conversion_as_json(),
            "last_used": max((file.accessed for file in stored.files), default=None),
        }

    def _conversion_as_json(self) -> dict[str, Any] | None:
        if self.conversion is None:
            return None
        path, size = self.conversion
        return {"path": str(path), "size_bytes": size}


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it. Sizes count what models share once."""

    models: tuple[StoredModel, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def total_size(self) -> int:
        """Bytes of all models."""
        return total_size([model.stored for model in self.models])


class Shelf:
    """The model folders, the Hugging Face cache, and the folder of what was converted from GGUF.

    Methods read the disk; threads may share it.
    """

    def __init__(self, folders: Sequence[Path], aliases: Mapping[str, str], conversions: Path) -> None:
        self._folders = folders
        self._conversions = conversions
        self._aliases = aliases
        self._known: dict[Path, tuple[Key, Mapping[str, Any]]] = {}
        self._lock = threading.Lock()

    def note_use(self, model: Path, when: float) -> None:
        """Note a use of the model at `model`, `when` in Unix seconds, as if it had been read then.

        File systems note that by themselves once a day, or never (relatime, noatime).
        """
        file = model / "config.json" if model.is_dir() else model
        with suppress(OSError):  # it is gone, or another user's
            stat = file.stat()
            if when > stat.st_atime:
                os.utime(file, ns=(int(when * 1e9), stat.st_mtime_ns))

    def inventory(self, used: Mapping[Path, float]) -> Inventory:
        """Look at the disk; headers are read again only of files that have changed.

        `used` are the models in memory and when they were used last (Unix seconds).
        """
        for model, when in used.items():
            self.note_use(model, when)
        found = catalogue(self._folders)
        made = {stored.path: folder for stored in found if (folder := self._conversion(stored)) is not None}
        models = tuple(
            StoredModel(stored, self._details(stored), _with_size(made.get(stored.path))) for stored in found
        )
        leftovers = list_leftovers(self._folders, self._conversions, set(made.values()))
        return Inventory(models, tuple(leftovers))

    def clean(self, *, before: float, busy: Collection[str], dry_run: bool = False) -> Cleaning:
        """Remove leftovers that nobody has written to since `before` (Unix seconds).

        `busy` are the names of models whose downloads wait: what has come of them stays. With `dry_run`
        nothing is removed.
        """
        current = {
            folder for stored in catalogue(self._folders) if (folder := self._conversion(stored)) is not None
        }
        old = [
            left
            for left in list_leftovers(self._folders, self._conversions, current)
            if left.modified < before and not any(f"/{left.model}".endswith(f"/{name}") for name in busy)
        ]
        return clean(old, dry_run=dry_run)

    def find(self, text: str) -> list[Path]:
        """The folders or files that deleting `text` would remove, with what was converted from them.

        Raises InvalidRequest, ModelNotFound.
        """
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
        converted = [folder for model in wanted if (folder := self._conversion(model)) is not None]
        if reference.file is not None:
            return [*(file.path for model in wanted for file in model.files), *converted]
        return [*dict.fromkeys((model.folder or model.path) for model in wanted), *converted]

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

    def _conversion(self, stored: Stored) -> Path | None:
        """The safetensors that were made of a model in GGUF, if they were."""
        if stored.kind != "gguf" or not stored.files:
            return None
        folder = conversion_of(stored.files[0].path, self._conversions)
        return folder if folder.is_dir() else None

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
    """What the files of a complete model say; of one that is damaged or incomplete the licence alone."""
    licence = {"license": licence_in(stored.folder)} if stored.folder is not None else {}
    try:
        return licence | (_read_header(stored) if stored.complete else {})
    except LoadFailed:
        return licence
    finally:
        # Reading a header is no use of the model: its files keep the time of their last one.
        for file in stored.files:
            with suppress(OSError):  # another user's file
                os.utime(file.path, ns=(int(file.accessed * 1e9), file.modified_ns))


def _read_header(stored: Stored) -> dict[str, Any]:
    if stored.kind == "gguf":
        header = read_header([file.path for file in stored.files])
        return {
            "architecture": header.architecture,
            "parameters": header.elements,
            "context_length": header.max_context,
            "quantization": tag_of(stored.path.name),
        }
    if stored.kind == "unknown":
        return {}
    if stored.kind == "adapter":
        return {"base_model": base_of(stored.path), "rank": rank_of(stored.path)}
    shape = read_shape(stored.path)
    return {
        "parameters": parameter_count(stored.path),
        "context_length": shape.max_context,
        "dtype": shape.dtype,
        "quantization": None,
    }


def _with_size(folder: Path | None) -> tuple[Path, int] | None:
    if folder is None:
        return None
    return folder, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


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
