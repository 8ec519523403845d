"""GGUF files in a folder: which belong together, and what their quantisations are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samovar_server.inventory.gguf_names import shard_of, tag_of

SUFFIX = ".gguf"
_PATTERN = "*.[gG][gG][uU][fF]"

_NO_MODEL = ("mmproj", "imatrix")
"""Beginnings of the names of files that are no language models of their own."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model as GGUF: its parts in order, and its tag, such as Q4_K_M ("" where its name has none)."""

    name: str
    tag: str
    files: tuple[Path, ...]

    @property
    def path(self) -> Path:
        """The first part, by which the model is loaded."""
        return self.files[0]

    def answers_to(self, asked: str) -> bool:
        """Whether `asked` is its tag or the name of its (first) file, in any case."""
        asked = asked.lower()
        names = {self.tag.lower(), self.name.lower(), f"{self.name}{SUFFIX}".lower(), self.path.name.lower()}
        return asked in names - {""}


def gguf_models(folder: Path) -> list[GgufModel]:
    """The whole models among the GGUF files of `folder`, by name.

    Large repos keep the parts of each quantisation in a folder of its own, which has the tag for its name.
    """
    found: dict[tuple[Path, str], list[Path]] = {}
    for file in sorted([*folder.glob(_PATTERN), *folder.glob(f"*/{_PATTERN}")]):
        is_ours = file.parent == folder or tag_of(f"{file.parent.name}{SUFFIX}") is not None
        if is_ours and file.is_file() and not file.name.startswith((".", *_NO_MODEL)):
            found.setdefault((file.parent, _stem(file)), []).append(file)
    whole = ((stem, files) for (_, stem), files in found.items() if is_whole(files))
    return [GgufModel(stem, tag_of(files[0].name) or "", tuple(files)) for stem, files in whole]


def model_of_file(file: Path) -> GgufModel:
    """The model that `file` is, or is a part of, from the files that lie beside it."""
    stem = _stem(file)
    parts = sorted(other for other in file.parent.glob(_PATTERN) if other.is_file() and _stem(other) == stem)
    return GgufModel(stem, tag_of(file.name) or "", tuple(parts) if is_whole(parts) else (file,))


def is_whole(files: Sequence[Path]) -> bool:
    """Whether `files`, which share a name, are one model: a single file, or all parts of several."""
    shards = [shard_of(file.name) for file in files]
    if shards == [None]:
        return True
    parts = {shard[1:] for shard in shards if shard is not None}
    return parts == {(number, len(files)) for number in range(1, len(files) + 1)}


def label(model: GgufModel, models: Sequence[GgufModel]) -> str:
    """What `model` is called among all `models` of its folder: its tag if that says enough."""
    is_plain = model.tag and [other.tag for other in models].count(model.tag) == 1
    return model.tag if is_plain else model.path.name


def _stem(file: Path) -> str:
    """The file's name without its suffix and its number among the parts of a model."""
    shard = shard_of(file.name)
    return shard[0] if shard else file.stem
