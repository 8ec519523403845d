"""Models to choose from, on disk and on the Hub. The state of the picker; free of ipywidgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samovar.progress import size
from samovar.records import Estimate, FoundModel, StoredModel

FORMATS = {"transformers": "safetensors", "gguf": "GGUF"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that can be chosen. `fits` says whether memory has room for it; None while nobody knows."""

    name: str
    size_bytes: int | None
    format: str
    on_disk: bool
    fits: bool | None
    gated: bool = False

    def words(self) -> str:
        """One line; what does not fit is said in words, not by a colour."""
        facts = [
            self.name,
            "" if self.size_bytes is None else size(self.size_bytes),
            self.format,
            "on disk" if self.on_disk else "on the Hub",
            {True: "✓ fits", False: "✗ too large", None: ""}[self.fits],
            "needs a licence" if self.gated else "",
        ]
        return " · ".join(fact for fact in facts if fact)


class CatalogueState:
    """What is on disk, what the Hub was last asked for, and the text that both are searched by."""

    def __init__(self) -> None:
        self.text = ""
        self._stored: Sequence[StoredModel] = ()
        self._found: Sequence[FoundModel] = ()
        self._fits: Mapping[str, bool] = {}

    def set_stored(self, stored: Sequence[StoredModel], fits: Mapping[str, bool]) -> None:
        """Note what is on disk, and which of it fits into memory; what is no whole model cannot be chosen."""
        self._stored = [model for model in stored if model.complete and model.model_type != "adapter"]
        self._fits = fits

    def set_found(self, found: Sequence[FoundModel]) -> None:
        """Note what the Hub has for the text."""
        self._found = found

    def choices(self) -> list[Choice]:
        """What matches the text: models on disk by name, then those of the Hub that are not on disk."""
        words = self.text.lower().split()
        here = [self._here(model) for model in self._stored]
        matching = [choice for choice in here if all(word in choice.name.lower() for word in words)]
        names = {choice.name for choice in here}
        return matching + [_there(model) for model in self._found if model.id not in names]

    def find(self, name: str) -> Choice | None:
        """The choice of this name."""
        return next((choice for choice in self.choices() if choice.name == name), None)

    def _here(self, model: StoredModel) -> Choice:
        name = model.model_name
        return Choice(name, model.total_size_bytes, _format(model.model_type), True, self._fits.get(name))


def _there(model: FoundModel) -> Choice:
    return Choice(
        model.id, model.size_bytes, _format(model.model_type), model.on_disk, model.fits, gated=model.gated
    )


def _format(model_type: str) -> str:
    return FORMATS.get(model_type, "")


def estimate_words(estimate: Estimate) -> str:
    """What a load would take, in a sentence."""
    needs, free = size(estimate.total_bytes), size(estimate.free_bytes)
    begin = f"Needs {needs} on {estimate.device}, where {free} are free:"
    if not estimate.fits:
        return f"✗ {begin} it does not fit."
    if estimate.would_evict:
        return f"✓ {begin} it fits once {', '.join(estimate.would_evict)} has left memory."
    return f"✓ {begin} it fits."
