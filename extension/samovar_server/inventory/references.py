"""From what a caller writes (`demo`, `org/name@revision`, a path) to a folder with a model in it.

Only the configured folders and the Hugging Face cache are ever looked into. A reference is checked
before it touches the disk, and the folder it leads to is checked again with its symbolic links followed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from samovar_server.errors import InvalidRequest, ModelNotFound
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

    `revision` is the commit of a snapshot in the Hugging Face cache, and None for a model folder.
    """

    reference: str
    name: str
    path: Path
    source: Source
    revision: str | None


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
    if reference.file is not None or reference.name.lower().endswith(".gguf"):
        raise _invalid(
            f"GGUF loading is not supported yet: name a model in safetensors instead of {str(reference)!r}."
        )
    found = _in_folders(reference, folders) if reference.revision is None else None
    if found is not None:
        path, name = found
        return ResolvedModel(reference_text, name, path, "folder", None)
    snapshot = _in_hub_cache(reference)
    if snapshot is not None:
        return ResolvedModel(reference_text, reference.name, snapshot, "hub-cache", snapshot.name)
    raise _not_found(reference_text, reference)


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


def _in_folders(reference: ModelReference, folders: Sequence[Path]) -> tuple[Path, str] | None:
    """The model's path and canonical name, from the first folder that has it."""
    asked = reference.name
    if asked.startswith("/") and not any(_is_below(Path(asked), folder) for folder in folders):
        raise _invalid("The path lies outside the model folders; name a model below one of them.")
    for folder in folders:
        for path in _candidates(asked, folder):
            if not _is_folder(path):
                continue
            if not is_inside(path, folders):
                raise _invalid(
                    f"{asked!r} is a link that leaves the model folders; "
                    "move the model inside, or add its place to Workbench.model_folders."
                )
            name = folder_name(path, folder)
            # Found by its last part only, a folder that stands for another repo is not meant.
            by_last_part = path != folder / asked
            if is_complete(path) and (not by_last_part or name in (asked, path.name)):
                return path, name
    return None


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


def _in_hub_cache(reference: ModelReference) -> Path | None:
    """The snapshot's folder in the Hugging Face cache, if it is complete."""
    if not reference.is_hub_name:
        return None
    config = try_to_load_from_cache(reference.name, "config.json", revision=reference.revision)
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parent
    return snapshot if is_complete(snapshot) else None


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
