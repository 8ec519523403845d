"""Models of the Hugging Face Hub by a part of their names, with what their weights would take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from huggingface_hub.hf_api import ModelInfo

from samovar_server.downloader import hub_api

ITEM_BYTES: Mapping[str, float] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "I4": 0.5, "U4": 0.5, "F4": 0.5,
}  # fmt: skip
"""Of the kinds of numbers that the Hub tells of, as safetensors names them."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on the Hub. What the Hub does not tell is None.

    `size_bytes` are those of its weights as they are stored; of a repo of GGUF files that depends on the
    quantization, which `verify-repo` tells. `fits`: whether they fit into this machine's memory as they are.
    """

    id: str
    downloads: int | None
    likes: int | None
    gated: bool
    model_type: str
    parameters: int | None
    size_bytes: int | None
    fits: bool | None
    on_disk: bool


def search(text: str, limit: int, *, room: int, here: Collection[str]) -> list[FoundModel]:
    """The most downloaded models whose names contain `text`.

    `room` is how many bytes of weights fit into memory, `here` the names of the models on disk. Raises
    SourceUnavailable or PullFailed.
    """
    return [_found(info, room, here) for info in hub_api.search(text, limit)]


def _found(info: ModelInfo, room: int, here: Collection[str]) -> FoundModel:
    weights, gguf = info.safetensors, info.gguf
    parameters = weights.total if weights is not None else int((gguf or {}).get("total") or 0)
    size = (
        sum(count * ITEM_BYTES.get(kind, 4) for kind, count in weights.parameters.items()) if weights else 0
    )
    return FoundModel(
        id=info.id,
        downloads=info.downloads,
        likes=info.likes,
        gated=bool(info.gated),
        model_type="transformers" if weights is not None else "gguf" if gguf else "unknown",
        parameters=parameters or None,
        size_bytes=int(size) or None,
        fits=int(size) <= room if size else None,
        on_disk=info.id in here,
    )
