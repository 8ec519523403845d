"""Everything on disk that is or was to be a model, complete or not, with its files.

`scan.py` lists what can be loaded; this lists what takes space. Names are those of `scan.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

from samovar_server.inventory.adapters import CONFIG_FILE as ADAPTER_FILE
from samovar_server.inventory.adapters import is_adapter
from samovar_server.inventory.gguf import SUFFIX, gguf_models, is_whole, label, model_of_file
from samovar_server.inventory.scan import MAX_DEPTH, Source, folder_name, is_complete, is_inside

Kind = Literal["transformers", "gguf", "adapter", "unknown"]

WEIGHTS_SUFFIXES = frozenset({".safetensors", SUFFIX, ".bin", ".pt", ".pth"})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file: `path` as it is named, `real` where its bytes lie (in a cache a blob), with its times."""

    path: Path
    real: tuple[int, int]
    size: int
    modified_ns: int
    accessed: float


@dataclass(frozen=True, slots=True)
class Stored:
    """A model on disk. `path` is its `folder`, or the first file of a model in GGUF.

    `folder` may hold several models in GGUF; it is None for a file that lies in a model folder itself.
    """

    name: str
    path: Path
    folder: Path | None
    source: Source
    revision: str | None
    kind: Kind
    complete: bool
    files: tuple[StoredFile, ...]

    @property
    def size(self) -> int:
        """Bytes, those of a file with two names once."""
        return total_size([self])


def total_size(models: Sequence[Stored]) -> int:
    """Bytes of all models; what they share counts once."""
    return sum({file.real: file.size for model in models for file in model.files}.values())


def catalogue(folders: Sequence[Path]) -> list[Stored]:
    """All models in the folders and in the Hugging Face cache, by name."""
    found = [model for folder in folders for model in _in_folder(folder)]
    found += [model for place in _snapshots() for model in _in_place(*place)]
    return sorted(found, key=lambda model: (model.name, str(model.path)))


def _in_folder(folder: Path) -> Iterator[Stored]:
    for path in _places(folder, folder, MAX_DEPTH):
        yield from _in_place(folder_name(path, folder), path, "folder", None)
    for file in _visible(folder):
        if file.suffix.lower() == SUFFIX and file.is_file() and file == model_of_file(file).path:
            parts = model_of_file(file).files
            yield Stored(file.name, file, None, "folder", None, "gguf", is_whole(parts), _files(parts))


def _places(parent: Path, root: Path, depth: int) -> Iterator[Path]:
    """Folders with weights or a config, no deeper than `depth`; hidden ones are downloads under way."""
    for child in _visible(parent):
        if not child.is_dir() or not is_inside(child, [root]):
            continue
        inside = _visible(child)
        if any(file.name == "config.json" or file.suffix.lower() in WEIGHTS_SUFFIXES for file in inside):
            yield child
        elif depth > 1:
            yield from _places(child, root, depth - 1)


def _snapshots() -> Iterator[tuple[str, Path, Source, str]]:
    for repo in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        name = repo.name.removeprefix("models--").replace("--", "/")
        main = repo / "refs" / constants.DEFAULT_REVISION
        main_commit = main.read_text(encoding="utf-8").strip() if main.is_file() else None
        for snapshot in _visible(repo / "snapshots"):
            called = name if snapshot.name == main_commit else f"{name}@{snapshot.name}"
            yield called, snapshot, "hub-cache", snapshot.name


def _in_place(name: str, path: Path, source: Source, revision: str | None) -> Iterator[Stored]:
    """The models of one folder: each quantisation in GGUF, and all else as one."""
    quantized = gguf_models(path)
    in_gguf = {file for model in quantized for file in model.files}
    for model in quantized:
        called = f"{name}:{label(model, quantized)}"
        yield Stored(called, model.path, path, source, revision, "gguf", True, _files(model.files))
    others = [file for file in sorted(path.rglob("*")) if file not in in_gguf and not file.is_dir()]
    names = {file.name for file in others}
    has_weights = any(file.suffix.lower() in WEIGHTS_SUFFIXES for file in others)
    if quantized and not has_weights:  # a licence or a read-me beside them
        return
    if ADAPTER_FILE in names and "config.json" not in names:
        yield Stored(name, path, path, source, revision, "adapter", is_adapter(path), _files(others))
        return
    is_transformers = "config.json" in names or any(name.endswith(".safetensors") for name in names)
    has_parts = any(file.suffix.lower() == SUFFIX for file in others)  # of a model that lacks some
    kind: Kind = "transformers" if is_transformers else "gguf" if has_parts else "unknown"
    yield Stored(name, path, path, source, revision, kind, is_complete(path), _files(others))


def _files(paths: Sequence[Path]) -> tuple[StoredFile, ...]:
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:  # removed while we look, or a link to nothing
            continue
        real = (stat.st_dev, stat.st_ino)
        found.append(StoredFile(path, real, stat.st_size, stat.st_mtime_ns, stat.st_atime))
    return tuple(found)


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - faster
    except OSError:
        return []
