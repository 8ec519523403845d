"""Which models lie on this machine: the configured folders and the Hugging Face cache.

Reads file names, sizes and small JSON files only: no network, no torch, no weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

from huggingface_hub import constants

from samovar_server.inventory.gguf import SUFFIX, gguf_models, label, model_of_file

Source = Literal["folder", "hub-cache"]

PROVENANCE_FILE = "samovar.json"
"""Written by samovar's own downloads; its "name" is the repo the folder stands for."""

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"

MAX_DEPTH = 3
"""How many levels below a model folder a model may lie: `name`, `org/name`, `group/org/name`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OnDiskModel:
    """A model that could be loaded now. `name` is what `resolve` takes; `modified` is in Unix seconds."""

    name: str
    path: Path
    size_bytes: int
    modified: float
    source: Source


def list_models(folders: Sequence[Path]) -> list[OnDiskModel]:
    """Every complete model in the folders and in the Hugging Face cache, sorted by name.

    A name that several places offer is listed once, from the place `resolve` would take.
    """
    found: dict[str, OnDiskModel] = {}
    for folder in folders:
        for path in find_folders(folder, _is_model):
            _add(found, path, folder_name(path, folder), "folder")
        for file in _files_in(folder):
            found.setdefault(file.name, _on_disk(file.name, file, model_of_file(file).files, "folder"))
    for name, path in find_snapshots(_is_model):
        _add(found, path, name, "hub-cache")
    return sorted(found.values(), key=lambda model: model.name)


def is_complete(path: Path) -> bool:
    """Whether the folder holds a config and every safetensors file its index names, for this user to read."""
    try:
        if not (path / "config.json").is_file():
            return False
        index = path / WEIGHTS_INDEX_FILE
        if index.is_file():
            weight_map = _read_json(index).get("weight_map")
            shards = {str(shard) for shard in weight_map.values()} if isinstance(weight_map, dict) else set()
            return bool(shards) and all((path / shard).is_file() for shard in shards)
        return (path / WEIGHTS_FILE).is_file()
    except PermissionError:
        return False


def folder_name(path: Path, folder: Path) -> str:
    """The canonical name of the model at `path` below `folder`: its repo's, if samovar put it there."""
    provenance = path / PROVENANCE_FILE
    name = _read_json(provenance).get("name") if provenance.is_file() else None
    return name if isinstance(name, str) and name else path.relative_to(folder).as_posix()


def is_inside(path: Path, folders: Sequence[Path]) -> bool:
    """Whether `path`, with all its symbolic links followed, lies below one of the folders."""
    real = path.resolve()
    return any(
        real != root and real.is_relative_to(root) for root in (folder.resolve() for folder in folders)
    )


def _is_model(path: Path) -> bool:
    return is_complete(path) or bool(gguf_models(path))


def find_folders(folder: Path, is_wanted: Callable[[Path], bool]) -> Iterator[Path]:
    """Folders below `folder` that are wanted, none within another; hidden ones are downloads under way."""
    level = [folder]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _folders_in(parent) if is_inside(child, [folder])]
        wanted = [child for child in level if is_wanted(child)]
        yield from wanted
        level = [child for child in level if child not in wanted]


def _folders_in(parent: Path) -> list[Path]:
    try:
        return sorted(
            child for child in parent.iterdir() if child.is_dir() and not child.name.startswith(".")
        )
    except FileNotFoundError:  # not made yet, or removed while we look
        return []
    except OSError as error:
        log.warning("cannot look for models in %s: %s", parent, error.strerror)
        return []


def find_snapshots(is_wanted: Callable[[Path], bool]) -> Iterator[tuple[str, Path]]:
    """Snapshots of the Hugging Face cache that are wanted; all but `main` carry their commit in the name.

    Looks at repos of models only: huggingface_hub's own scan reads every file of every data set, too.
    """
    for repo in Path(constants.HF_HUB_CACHE).glob("models--*"):
        name = repo.name.removeprefix("models--").replace("--", "/")
        main = repo / "refs" / "main"
        main_commit = main.read_text(encoding="utf-8").strip() if main.is_file() else None
        for snapshot in (repo / "snapshots").glob("*"):
            if is_wanted(snapshot):
                yield name if snapshot.name == main_commit else f"{name}@{snapshot.name}", snapshot


def _add(found: dict[str, OnDiskModel], folder: Path, name: str, source: Source) -> None:
    """Note the models in `folder`: that in safetensors, and each quantisation in GGUF."""
    quantized = gguf_models(folder)
    in_gguf = {file for model in quantized for file in model.files}
    if is_complete(folder):
        others = (file for file in folder.rglob("*") if file not in in_gguf)
        found.setdefault(name, _on_disk(name, folder, others, source))
    for model in quantized:
        called = f"{name}:{label(model, quantized)}"
        found.setdefault(called, _on_disk(called, model.path, model.files, source))


def _files_in(folder: Path) -> list[Path]:
    """GGUF files that lie in a model folder without a folder of their own."""
    try:
        files = [file for file in folder.iterdir() if file.suffix.lower() == SUFFIX and file.is_file()]
    except OSError:  # `_folders_in` has told of it
        return []
    return sorted(file for file in files if is_inside(file, [folder]) and file == model_of_file(file).path)


def _on_disk(name: str, path: Path, files: Iterable[Path], source: Source) -> OnDiskModel:
    size, modified = 0, 0.0
    for file in files:
        try:
            stat = file.stat()
        except FileNotFoundError:  # removed while we look, or a link to nothing
            continue
        if S_ISREG(stat.st_mode):
            size += stat.st_size
            modified = max(modified, stat.st_mtime)
    return OnDiskModel(name, path, size, modified, source)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file; one that is broken counts as empty, and the log says so."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.warning("cannot read %s: %s", path, error)
        return {}
    return value if isinstance(value, dict) else {}
