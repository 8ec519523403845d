"""What a load needs to know of a GGUF file, from its header alone.

The gguf package reads all of a file's metadata into numpy arrays, which takes seconds for a large
vocabulary and is no part of the server's needs. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samovar_server.errors import LoadFailed

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""Formats of the value types that have a fixed size."""

MAX_COUNT = 2**32
"""Of entries in one list: more can only be a damaged file."""
KEPT_ITEMS = 1024
"""Of a list's numbers: enough for one number a layer."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A model's shape. `kv_values` are the numbers kept for a token in all layers, keys and values.

    `elements` are the weights' numbers, however many bits each takes. 0 or None: the file does not say.
    """

    architecture: str
    max_context: int | None
    layers: int
    kv_values: int
    vocabulary: int
    elements: int


def read_header(files: Sequence[Path]) -> GgufHeader:
    """The shape of the model in `files`, the parts of one model; LoadFailed when one is damaged."""
    parts = [_read(file) for file in files]
    fields = parts[0][0]
    architecture = str(fields.get("general.architecture", ""))

    def number(name: str) -> int:
        value = fields.get(f"{architecture}.{name}", 0)
        return value if isinstance(value, int) else 0

    layers, heads = number("block_count"), number("attention.head_count")
    head = number("embedding_length") // heads if heads else 0
    per_head = (number("attention.key_length") or head) + (number("attention.value_length") or head)
    kv_heads = fields.get(f"{architecture}.attention.head_count_kv", heads)
    of_all_layers = sum(kv_heads) if isinstance(kv_heads, list) else int(kv_heads) * layers
    vocabulary = fields.get("tokenizer.ggml.tokens", 0)
    return GgufHeader(
        architecture=architecture,
        max_context=number("context_length") or None,
        layers=layers,
        kv_values=of_all_layers * per_head,
        vocabulary=vocabulary if isinstance(vocabulary, int) else 0,
        elements=sum(elements for _, elements in parts),
    )


def _read(file: Path) -> tuple[dict[str, Any], int]:
    """The metadata of one file, and how many numbers its tensors have."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            if data[:4] != MAGIC or reader.skip(4).scalar("<I") not in VERSIONS:
                raise ValueError("not a GGUF file of a known version")
            tensors, entries = reader.count(), reader.count()
            fields = {reader.string(): reader.value(reader.scalar("<I")) for _ in range(entries)}
            return fields, sum(reader.tensor() for _ in range(tensors))
    except (OSError, ValueError, struct.error, IndexError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LoadFailed(f"{file.name} cannot be read ({reason}). Get the model again.") from None


class _Reader:
    """Walks over a header. Lists of strings, vocabularies mostly, are only counted."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def skip(self, size: int) -> _Reader:
        self._at += size
        return self

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def count(self) -> int:
        count: int = self.scalar("<Q")
        if count > MAX_COUNT:
            raise ValueError(f"a list of {count} entries")
        return count

    def string(self) -> str:
        length = self.count()
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        return self._list() if kind == ARRAY else self.scalar(SCALARS[kind])

    def tensor(self) -> int:
        self.string()
        dimensions = [self.count() for _ in range(self.scalar("<I"))]
        self.skip(4 + 8)  # its type and where it lies
        return math.prod(dimensions)

    def _list(self) -> list[Any] | int:
        """The list's numbers; of strings and of long lists only how many there are."""
        kind, count = self.scalar("<I"), self.count()
        if kind == STRING:
            data, at = self._data, self._at
            for _ in range(count):
                at += 8 + int.from_bytes(data[at : at + 8], "little")
            self._at = at
            return count
        if kind == ARRAY:
            for _ in range(count):
                self._list()
            return count
        form = SCALARS[kind]
        if count > KEPT_ITEMS:
            self.skip(count * struct.calcsize(form))
            return count
        return [self.scalar(form) for _ in range(count)]
