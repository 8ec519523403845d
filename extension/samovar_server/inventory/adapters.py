"""Adapters on this machine, and what `base+adapter` means.

An adapter is a folder as the peft library saves it. It lies where models lie, and is no model by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from samovar_server.errors import InvalidRequest, ModelNotFound
from samovar_server.inventory.references import folders_named, parse_reference, resolve
from samovar_server.inventory.scan import find_folders, find_snapshots, folder_name, is_inside

PLUS = "+"
"""Between a model's name and an adapter's."""

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"

SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True)
class OnDiskAdapter:
    """An adapter that could be used now. `base` is the model that its config says it is for, "" if none."""

    name: str
    path: Path
    base: str


def split_adapter(
    text: str, *, folders: Sequence[Path], aliases: Mapping[str, str]
) -> tuple[str, OnDiskAdapter | None]:
    """What `text` means: a model's reference, and the adapter behind its last plus, if it has one.

    A model whose own name has a plus is meant before an adapter is. Raises InvalidRequest and
    ModelNotFound for an adapter; whether the model is there is left open.
    """
    meant = aliases.get(text, text)
    if PLUS not in meant:
        return text, None
    try:
        resolve(meant, folders=folders, aliases={})
    except ModelNotFound:
        base, _, adapter = meant.rpartition(PLUS)
        return base, resolve_adapter(adapter, folders=folders)
    return text, None


def resolve_adapter(text: str, *, folders: Sequence[Path]) -> OnDiskAdapter:
    """The adapter that `text` names, as a model's name does. Raises InvalidRequest, ModelNotFound."""
    reference = parse_reference(text, {})
    if reference.file is not None:
        raise _invalid(f"{text!r} names a file. An adapter is a folder: leave out :{reference.file}.")
    for path, name in folders_named(reference, folders):
        if is_adapter(path):
            _require_inside(path, name, folders)
            return OnDiskAdapter(name, path, base_of(path))
        if (path / CONFIG_FILE).is_file() and (path / PICKLED_FILE).is_file():
            raise _invalid(
                f"Adapter {name} is pickled ({PICKLED_FILE}), and reading that could run any code. Save it "
                "again as safetensors, with a peft of today: model.save_pretrained(folder)."
            )
    names = [adapter.name for adapter in list_adapters(folders)]
    near = get_close_matches(text, names, n=SHOWN_NAMES, cutoff=0.4) or names[:SHOWN_NAMES]
    raise ModelNotFound(
        f"There is no adapter {text!r} on this machine. "
        + (
            f"There is: {', '.join(near)}."
            if near
            else f"Put its folder, with {CONFIG_FILE}, where models are."
        ),
        param="model",
    )


def list_adapters(folders: Sequence[Path]) -> list[OnDiskAdapter]:
    """Every adapter in the folders and in the Hugging Face cache, by name; of equal names the first."""
    found: dict[str, OnDiskAdapter] = {}
    for folder in folders:
        for path in find_folders(folder, is_adapter):
            name = folder_name(path, folder)
            found.setdefault(name, OnDiskAdapter(name, path, base_of(path)))
    for name, path in find_snapshots(is_adapter):
        found.setdefault(name, OnDiskAdapter(name, path, base_of(path)))
    return sorted(found.values(), key=lambda adapter: adapter.name)


def is_adapter(path: Path) -> bool:
    """Whether the folder holds an adapter's config and its weights in safetensors, for this user to read."""
    try:
        return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()
    except PermissionError:
        return False


def base_of(path: Path) -> str:
    """The model that the adapter at `path` says it is for; "" if it says none, or cannot be read."""
    return str(_config(path).get("base_model_name_or_path") or "")


def rank_of(path: Path) -> int | None:
    """The rank that the adapter at `path` states."""
    rank = _config(path).get("r")
    return rank if isinstance(rank, int) else None


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _require_inside(path: Path, name: str, folders: Sequence[Path]) -> None:
    """Neither file may be a link to somewhere else, for a worker reads what is there."""
    roots = [*folders, Path(constants.HF_HUB_CACHE)]
    if not all(is_inside(path / file, roots) for file in (CONFIG_FILE, WEIGHTS_FILE)):
        raise _invalid(
            f"Adapter {name} holds a link that leaves the model folders; put the file itself there."
        )


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="model")
