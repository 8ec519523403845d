"""How much memory a model will take, from its config.json and the headers of its safetensors files.

Weights, plus keys and values, plus what the process itself takes. The weights are not read and torch is
not imported, so an estimate costs milliseconds.

How much the keys and values take depends on what will be asked, and both easy answers are wrong: every slot
at full length (16 times 8,192 tokens make a model of 0.5 GB one of 7.6 GB, and nothing else may be loaded)
and what the buffers take at first (next to nothing, until somebody sends a long text). A GPU's buffers are
taken whole as they grow, and out of memory there is the end of the worker, so on a GPU every slot counts at
full length. In main memory a page is taken when it is written to (engine/kv_cache.py), so there one request
of full length counts, which the model promises to everybody, beside others of usual length. When all of them
are long, the worker is seen to take more, and the ledger follows (cache/watch.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samovar_server.errors import InvalidRequest, LoadFailed

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

LINEAR_BITS: Mapping[str, float] = {"int8": 8, "int4": 4 + 32 / 32, "nf4": 4 + 32 / 64}
"""Bits that a weight of a linear layer takes, with its share of the scales, by quantization."""
LOOKUP_NAMES = ("embed", "wte", "wpe")
"""Parts of the names of matrices that are looked up in, not multiplied with: they are not quantised."""

MIB = 1024 * 1024
PROCESS_BYTES: Mapping[str, int] = {"cpu": 512 * MIB, "cuda": 1024 * MIB}
"""Python with torch and transformers, or a CUDA context with its kernels; and room for activations."""

USUAL_TOKENS = 1024
"""Length of the requests beside the longest one, in main memory: most chats, and notebooks' prompts."""

SHORTEST_CONTEXT = 64
"""Tokens. Below it no context length is worth proposing."""

MAX_HEADER_BYTES = 100 * MIB
"""As the safetensors library has it."""

_ITEM_BITS: Mapping[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Loaded in the dtype that was asked for; all others stay as they are."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the estimate needs of a config.json. None or 0: the config does not say."""

    dtype: str | None
    max_context: int | None
    layers: int
    kv_width: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a load will take, and what they are made of."""

    weights_bytes: int
    kv_bytes_per_token: int
    context_length: int | None
    slots: int
    overhead_bytes: int
    loading_bytes: int = 0
    """Of the weights as they are read, before they are quantised."""
    usual_tokens: int | None = None
    """What the requests beside the longest one are counted with; None: with the whole context, too."""
    stated_bytes: int | None = None
    """What a caller who knows better said that the load will take."""

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values are counted."""
        context = self.context_length or 0
        others = context if self.usual_tokens is None else min(context, self.usual_tokens)
        return context + (self.slots - 1) * others

    @property
    def total_bytes(self) -> int:
        """The whole: weights, keys and values, overhead; or what was stated.

        If the weights take more than that while they are loaded, it is they that count.
        """
        if self.stated_bytes is not None:
            return self.stated_bytes
        kv = self.kv_bytes_per_token * self.kv_tokens
        return max(self.weights_bytes + kv, self.loading_bytes) + self.overhead_bytes

    def context_within(self, room: int) -> int | None:
        """The longest context, in tokens, with which one request at a time fits into `room` bytes.

        None when not even a short one does, or when the context is not what takes the memory.
        """
        if self.stated_bytes is not None or not self.kv_bytes_per_token or not self.context_length:
            return None
        if self.loading_bytes + self.overhead_bytes > room:
            return None
        tokens = (room - self.weights_bytes - self.overhead_bytes) // self.kv_bytes_per_token
        return min(tokens, self.context_length) if tokens >= SHORTEST_CONTEXT else None


def read_shape(folder: Path) -> ModelShape:
    """The model's shape; LoadFailed when its config.json cannot be read."""
    config = _read_object(folder / "config.json")
    text = config.get("text_config")
    if isinstance(text, dict):  # models that also see or hear keep their language part apart
        config = {**config, **text}
    heads = _count(config, "num_attention_heads", "n_head", "num_heads")
    head_dim = _count(config, "head_dim") or (
        _count(config, "hidden_size", "n_embd", "d_model") // heads if heads else 0
    )
    dtype = config.get("dtype", config.get("torch_dtype"))
    return ModelShape(
        dtype=dtype if isinstance(dtype, str) else None,
        max_context=_count(config, "max_position_embeddings", "n_positions", "max_seq_len") or None,
        layers=_count(config, "num_hidden_layers", "n_layer", "num_layers"),
        kv_width=(_count(config, "num_key_value_heads") or heads) * head_dim,
        vocabulary=_count(config, "vocab_size"),
    )


def weights_bytes(folder: Path, dtype: str, quantization: str = "none") -> int:
    """Bytes of the model's weights once they are loaded as `dtype` and then quantised.

    LoadFailed when there are no safetensors files, or one is damaged.
    """
    files = _weight_files(folder)
    if not files:
        raise LoadFailed(
            f"{folder.name} has no safetensors files. Other weights (pickles) are not loaded, as they "
            "can run code; convert the model to safetensors first."
        )
    tensors = [tensor for file in files for tensor in _tensors(file)]
    return sum(_tensor_bytes(*tensor, dtype, quantization) for tensor in tensors)


def parameter_count(folder: Path) -> int:
    """How many numbers the model's weights are; LoadFailed when a file is damaged."""
    return sum(math.prod(shape) for file in _weight_files(folder) for _, _, shape in _tensors(file))


def estimate(
    shape: ModelShape,
    weights: int,
    *,
    device: str,
    dtype: str,
    context_length: int | None,
    slots: int,
    loading: int = 0,
) -> MemoryEstimate:
    """The memory of a load with `slots` requests at once, any of them of up to `context_length` tokens.

    `weights` are the bytes to stay, `loading` those that the weights take meanwhile.
    """
    logits = slots * shape.vocabulary * DTYPE_BYTES["float32"]
    return MemoryEstimate(
        weights_bytes=weights,
        kv_bytes_per_token=2 * shape.layers * shape.kv_width * DTYPE_BYTES[dtype],
        context_length=context_length,
        slots=slots,
        overhead_bytes=PROCESS_BYTES[device.partition(":")[0]] + logits,
        loading_bytes=loading,
        usual_tokens=USUAL_TOKENS if device == "cpu" else None,
    )


def choose_context(shape: ModelShape, asked: int | None) -> int | None:
    """The context length to load with; InvalidRequest when the model's own window is shorter."""
    if asked is not None and shape.max_context is not None and asked > shape.max_context:
        raise InvalidRequest(
            f"context_length: this model's window has {shape.max_context} tokens (got {asked}). "
            "Ask for that many or fewer, or leave it out.",
            param="context_length",
        )
    return asked if asked is not None else shape.max_context


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object from the model's folder."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(config, dict):
        raise _damaged(path, TypeError("not a JSON object"))
    return config


def _weight_files(folder: Path) -> list[Path]:
    """The files a load reads: a repo may hold the same weights again under other names."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        weight_map = _read_object(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise _damaged(index, TypeError("no weight_map"))
        return [folder / str(name) for name in sorted(set(weight_map.values()))]
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _damaged(path: Path, error: Exception) -> LoadFailed:
    # The text of an OSError holds the whole path, which is nobody's business outside.
    reason = error.strerror if isinstance(error, OSError) else error
    return LoadFailed(f"{path.name} of {path.parent.name} cannot be read ({reason}). Get the model again.")


def _count(config: Mapping[str, Any], *names: str) -> int:
    """The first of the fields that is a positive integer, else 0."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _tensors(file: Path) -> list[tuple[str, str, list[int]]]:
    """(name, dtype, shape) of each tensor in a safetensors file."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        return [
            (name, str(entry["dtype"]), [int(size) for size in entry["shape"]])
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise _damaged(file, error) from None


def _tensor_bytes(name: str, stored: str, shape: list[int], dtype: str, quantization: str) -> int:
    if quantization in LINEAR_BITS and stored in _FLOATS and len(shape) > 1 and not _is_lookup(name):
        return math.ceil(math.prod(shape) * LINEAR_BITS[quantization] / 8)
    bits = DTYPE_BYTES[dtype] * 8 if stored in _FLOATS else _ITEM_BITS.get(stored, 32)
    return math.ceil(math.prod(shape) * bits / 8)


def _is_lookup(name: str) -> bool:
    return any(part in name for part in LOOKUP_NAMES)
