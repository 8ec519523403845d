"""From what a caller writes (`demo`, `org/name@revision`, a path) to a folder with a model in it.

Only the configured folders and the Hugging Face cache are ever looked into. A reference is checked
before it touches the disk, and the folder it leads to is checked again with its symbolic links followed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from samovar_server.errors import InvalidRequest, ModelNotFound
from samovar_server.inventory.gguf import SUFFIX, GgufModel, gguf_models, label, model_of_file
from samovar_server.inventory.scan import (
    OnDiskModel,
    Source,
    folder_name,
    is_complete,
    is_inside,
    list_models,
)

__all__ = ["ModelReference", "OnDiskModel", "ResolvedModel", "list_models", "parse_reference", "resolve"]

MAX_LENGTH = 1024
MAX_PART_BYTES = 255
"""Linux, macOS and Windows take no longer file name."""

_HUB_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A checked reference. `name` is a repo or a path below a model folder; absolute if so written."""

    name: str
    revision: str | None = None
    file: str | None = None

    @property
    def is_hub_name(self) -> bool:
        """Whether the Hub could have a repo of this name."""
        parts = self.name.split("/")
        allowed = all(_HUB_PART.fullmatch(part) and "--" not in part and ".." not in part for part in parts)
        return len(parts) <= 2 and allowed

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.name}{revision}{f':{self.file}' if self.file else ''}"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model on this machine: `reference` as it was asked for, `name` the same for every way to ask.

    `path` is its folder; of a model in GGUF its first file, `files` being all of them. `revision` is the
    commit of a snapshot in the Hugging Face cache, and None for a model folder.
    """

    reference: str
    name: str
    path: Path
    source: Source
    revision: str | None
    files: tuple[Path, ...] = ()

    @property
    def is_gguf(self) -> bool:
        """Whether it is a model in GGUF, not in safetensors."""
        return bool(self.files)


def parse_reference(text: str, aliases: Mapping[str, str]) -> ModelReference:
    """Check a reference and take it apart; an alias stands for the reference it names.

    Raises InvalidRequest for anything that is not a name: empty, too long, control characters, `..`, `~`.
    """
    return _parse(aliases.get(text, text))


def resolve(reference_text: str, *, folders: Sequence[Path], aliases: Mapping[str, str]) -> ResolvedModel:
    """Find the model a reference names: in the model folders first, then in the Hugging Face cache.

    Raises InvalidRequest when the reference is malformed or leaves the folders, ModelNotFound when
    nothing here answers to it.
    """
    reference = parse_reference(reference_text, aliases)
    found = _in_folders(reference, folders) if reference.revision is None else None
    if found is not None:
        return ResolvedModel(reference_text, found.name, found.path, "folder", None, found.files)
    snapshot = _snapshot(reference)
    if snapshot is not None:
        found = _in_folder(snapshot, reference.name, reference.file, [Path(constants.HF_HUB_CACHE)])
        if found is not None:
            path, revision = found.path, snapshot.name
            return ResolvedModel(reference_text, found.name, path, "hub-cache", revision, found.files)
    raise _not_found(reference_text, reference)


@dataclass(frozen=True, slots=True)
class _Found:
    """A model under its canonical name; `files` are those of a model in GGUF."""

    path: Path
    name: str
    files: tuple[Path, ...] = ()


def _parse(text: str) -> ModelReference:
    if not text or text != text.strip():
        raise _invalid("The model reference is empty or has spaces around it; write a name such as 'demo'.")
    if len(text) > MAX_LENGTH:
        raise _invalid(f"The model reference is longer than {MAX_LENGTH} characters.")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise _invalid("The model reference holds control characters; write a name such as 'org/name'.")
    head, colon, file = text.partition(":")
    name, at, revision = head.rpartition("@") if "@" in head else (head, "", "")
    if colon and not _is_clean(file):
        raise _invalid("After ':' a model reference names a file of the model, such as 'org/name:file.gguf'.")
    if at and not (_REVISION.fullmatch(revision) and ".." not in revision):
        raise _invalid("After '@' a model reference names a branch, a tag or a commit.")
    if not _is_clean(name.removeprefix("/")):
        raise _invalid(
            "The model reference is not a name below the model folders: write 'name' or 'org/name', "
            "without '..', '~', backslashes, hidden or empty parts."
        )
    return ModelReference(name, revision or None, file or None)


def _is_clean(path: str) -> bool:
    """Whether every part is a plain, visible file name; hidden ones are downloads under way."""
    return "\\" not in path and all(
        part and part[0] not in ".~" and len(part.encode()) <= MAX_PART_BYTES for part in path.split("/")
    )


def _in_folders(reference: ModelReference, folders: Sequence[Path]) -> _Found | None:
    """The model, from the first folder that has it."""
    for folder, path in _places(reference.name, folders):
        if path.suffix.lower() == SUFFIX and reference.file is None and path.is_file():
            name = path.relative_to(folder).as_posix()
            return _gguf(model_of_file(path), name, folders)
        called = _name_if_meant(path, folder, reference.name, folders)
        if called is not None and (found := _in_folder(path, called, reference.file, folders)) is not None:
            return found
    return None


def folders_named(reference: ModelReference, folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """The folders that a reference may mean, each with its canonical name, whatever is in them.

    Those in the model folders come first, then the snapshot in the Hugging Face cache. Raises
    InvalidRequest for one that leaves the folders.
    """
    if reference.revision is None:
        for folder, path in _places(reference.name, folders):
            if (called := _name_if_meant(path, folder, reference.name, folders)) is not None:
                yield path, called
    if (snapshot := _snapshot(reference)) is not None:
        yield snapshot, reference.name


def _places(asked: str, folders: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Where what is `asked` for may lie, behind the folder that it would be in."""
    if asked.startswith("/") and not any(_is_below(Path(asked), folder) for folder in folders):
        raise _invalid("The path lies outside the model folders; name a model below one of them.")
    for folder in folders:
        for path in _candidates(asked, folder):
            yield folder, path


def _name_if_meant(path: Path, folder: Path, asked: str, folders: Sequence[Path]) -> str | None:
    """The canonical name of the folder `path`, if it is one and `asked` means it."""
    if not _is_folder(path):
        return None
    _require_inside(path, asked, folders)
    name = folder_name(path, folder)
    # Found by its last part only, a folder that stands for another repo is not meant.
    by_last_part = path != folder / asked
    return None if by_last_part and name not in (asked, path.name) else name


def _in_folder(path: Path, name: str, file: str | None, folders: Sequence[Path]) -> _Found | None:
    """The model in the folder `path`: the safetensors, or the GGUF `file` or quantisation asked for."""
    if file is None and is_complete(path):
        return _Found(path, name)
    models = gguf_models(path)
    fitting = models if file is None else [model for model in models if model.answers_to(file)]
    if len(fitting) == 1:
        return _gguf(fitting[0], f"{name}:{label(fitting[0], models)}", folders)
    if not models:
        return None
    has = ", ".join(f"{name}:{label(model, models)}" for model in models)
    if fitting:
        raise _invalid(f"{name} holds several models in GGUF. Name one of: {has}.")
    raise ModelNotFound(f"{name} has no {file!r} here. It has: {has}.", param="model")


def _gguf(model: GgufModel, name: str, folders: Sequence[Path]) -> _Found:
    for file in model.files:
        _require_inside(file, name, folders)
    return _Found(model.path, name, model.files)


def _require_inside(path: Path, asked: str, folders: Sequence[Path]) -> None:
    if not is_inside(path, folders):
        raise _invalid(
            f"{asked!r} is a link that leaves the model folders; "
            "move the model inside, or add its place to Workbench.model_folders."
        )


def _candidates(name: str, folder: Path) -> list[Path]:
    """Where `name` may lie in one folder: under its full name or under its last part."""
    if name.startswith("/"):
        return [Path(name)] if _is_below(Path(name), folder) else []
    return list(dict.fromkeys([folder / name, folder / Path(name).name]))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:  # below a folder that this user may not enter
        return False


def _is_below(path: Path, folder: Path) -> bool:
    return path != folder and path.is_relative_to(folder)


def _snapshot(reference: ModelReference) -> Path | None:
    """The snapshot's folder in the Hugging Face cache, if there is one."""
    if not reference.is_hub_name:
        return None
    repo = Path(constants.HF_HUB_CACHE) / f"models--{reference.name.replace('/', '--')}"
    revision = reference.revision or constants.DEFAULT_REVISION
    ref = repo / "refs" / revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    snapshot = repo / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="model")


def _not_found(text: str, reference: ModelReference) -> ModelNotFound:
    where = "the model folders and the Hugging Face cache"
    if reference.is_hub_name:
        return ModelNotFound(
            f"Model {text!r} is not on this machine (looked in {where}). Get it with: samovar pull {text}",
            param="model",
        )
    return ModelNotFound(
        f"Model {text!r} is not on this machine (looked in {where}). See what is with: samovar list",
        param="model",
    )
