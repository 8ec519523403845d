"""The KV cache: one row of keys and values per slot, in buffers that grow by need.

Each layer holds [rows, kv_heads, length, head_dim]. A step writes its keys and values at (row, position),
and its attention reads the buffers where they are, so nothing is copied. In main memory a buffer's pages are
taken when they are written to: what is reserved for long texts and unused costs nothing. On a GPU that is
not so, and growing would need room for old and new at once; so there buffers are `fixed`: taken whole at the
first step, which is part of the load. They keep their addresses, as the graphs of decode steps need it.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from samovar_server.engine.step import Step

LENGTH_BUCKET = 256
"""Buffers grow to multiples of this many positions, and then by doubling."""


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values for all slots."""

    is_compileable = False
    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache
        self.keys: Tensor = torch.empty(0)
        self.values: Tensor = torch.empty(0)
        self._pages: list[mmap.mmap | None] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take heads, head size, dtype and device from the first keys and values that come in."""
        rows, length = self.cache.rows, self.cache.length + self.cache.spare
        keys = zeros(key_states, rows, key_states.shape[1], length, key_states.shape[3])
        values = zeros(value_states, rows, value_states.shape[1], length, value_states.shape[3])
        self._keep(keys, values)
        self.is_initialized = True

    def resize(self) -> None:
        """Grow to the cache's rows and length, keeping what is there."""
        if not self.is_initialized:
            return
        self._keep(self._grown(self.keys), self._grown(self.values))

    def _grown(self, old: Tensor) -> Buffer:
        new = zeros(old, self.cache.rows, old.shape[1], self.cache.length, old.shape[3])
        for row, length in enumerate(self.cache.filled[: old.shape[0]]):
            new.tensor[row, :, :length] = old[row, :, :length]
        return new

    def _keep(self, keys: Buffer, values: Buffer) -> None:
        self.keys, self.values = keys.tensor, values.tensor
        self._pages = [keys.pages, values.pages]

    def trim(self, row: int, length: int) -> None:
        """Give back the memory of a row's positions from `length` on."""
        for buffer, pages in zip((self.keys, self.values), self._pages, strict=False):
            if pages is not None:
                give_back(Buffer(buffer, pages), row, length)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row to another."""
        if not self.is_initialized:  # a layer that shares another's keys and values
            return
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the step's keys and values [1, kv_heads, tokens, head_dim]; return all that is held."""
        assert self.cache.step is not None
        self.write(self.cache.step, key_states[0].transpose(0, 1), value_states[0].transpose(0, 1))
        return self.keys, self.values

    def buffers(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Where keys and values like these [tokens, kv_heads, head_dim] are kept."""
        if not self.is_initialized:
            self.lazy_initialization(keys.transpose(0, 1)[None], values.transpose(0, 1)[None])
        return self.keys, self.values

    def write(self, step: Step, keys: Tensor, values: Tensor) -> None:
        """Keep the step's keys and values [tokens, kv_heads, head_dim]."""
        for buffer, states in zip(self.buffers(keys, values), (keys, values), strict=True):
            done = step.decoded
            if step.decoding is not None:
                rows = buffer.view(-1, buffer.shape[-1])
                new = states[:done].reshape(-1, buffer.shape[-1])
                rows.index_copy_(0, step.decoding.rows_of(buffer), new)
            for piece in step.pieces:
                size = len(piece.tokens)
                buffer[piece.slot, :, piece.start : piece.end] = states[done : done + size].transpose(0, 1)
                done += size

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Unused: the engine's attention makes its own masks. (length, offset)."""
        return self.cache.length, 0

    def get_seq_length(self) -> int:
        """Rows differ in length, so there is none; positions are always passed to the model."""
        return 0

    def get_max_length(self) -> int:
        """Positions a row can hold now."""
        return self.cache.length


class SlotCache(Cache):
    """The layers, their common size, and the step that is being run."""

    def __init__(self, layers: int, slots: int, context_length: int, *, fixed: bool = False) -> None:
        """`slots` rows of `context_length` positions are the most this cache grows to.

        If it is `fixed` it has them at once, and behind them one spare position in each row, at `length`:
        there is written what nobody reads.
        """
        self.rows = slots if fixed else min(4, slots)
        self.length = context_length if fixed else min(LENGTH_BUCKET, context_length)
        self.spare = 1 if fixed else 0
        self.fixed = fixed
        self.slots = slots
        self.context_length = context_length
        self.filled = [0] * slots
        """How many positions of each row have been written to since they were last given back."""
        self.step: Step | None = None
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def reserve(self, ends: Iterable[tuple[int, int]]) -> None:
        """Make room for (row, length) each of `ends`, to be written. Costs a copy whenever it grows."""
        ends = list(ends)
        rows, length = max(row for row, _ in ends) + 1, max(end for _, end in ends)
        assert rows <= self.slots and length <= self.context_length, "admission lets nothing larger in"
        if rows > self.rows or length > self.length:
            while self.rows < rows:
                self.rows = min(self.rows * 2, self.slots)
            while self.length < length:
                self.length = min(self.length * 2, self.context_length)
            for layer in self.layers:
                layer.resize()
        for row, end in ends:
            self.filled[row] = max(self.filled[row], end)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give row `target` the first `length` positions of row `source`."""
        for layer in self.layers:
            layer.copy_prefix(source, target, length)

    def trim(self, row: int, length: int) -> None:
        """Give back the memory of a row's positions from `length` on."""
        if row >= self.rows:  # which has never been written to
            return
        for layer in self.layers:
            layer.trim(row, length)
        self.filled[row] = min(self.filled[row], length)

    def nbytes(self) -> int:
        """Bytes that are allocated now."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def growth_bytes(self, tokens: int | None) -> int:
        """Bytes still to come until `tokens` are held (None: all rows at full length)."""
        if not self.nbytes():
            return 0
        held = self.rows * self.length if self.fixed else sum(self.filled)
        wanted = self.slots * self.context_length if tokens is None else tokens
        return self.nbytes() * max(wanted - held, 0) // (self.rows * self.length)


class Buffer(NamedTuple):
    """Memory for keys or values, and the mapping that it is in when it is main memory."""

    tensor: Tensor
    pages: mmap.mmap | None


def zeros(like: Tensor, *shape: int) -> Buffer:
    """Zeros of the dtype and on the device of `like`; in main memory not taken before they are written to.

    torch's own zeros are written at once.
    """
    if like.device.type != "cpu":
        return Buffer(like.new_zeros(shape), None)
    count = math.prod(shape)
    pages = mmap.mmap(-1, count * like.element_size())
    return Buffer(torch.frombuffer(pages, dtype=like.dtype, count=count).view(shape), pages)


def give_back(buffer: Buffer, row: int, length: int) -> None:
    """Return a row's whole pages from position `length` on to the system, where it takes them (Linux)."""
    remove = getattr(mmap, "MADV_REMOVE", None)
    if buffer.pages is None or remove is None:
        return
    _, heads, positions, _ = buffer.tensor.shape
    size = buffer.tensor.stride(2) * buffer.tensor.element_size()
    for head in range(row * heads, (row + 1) * heads):
        begin = -(-(head * positions + length) * size // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (head + 1) * positions * size // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:
            buffer.pages.madvise(remove, begin, end - begin)
