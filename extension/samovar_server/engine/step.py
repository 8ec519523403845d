"""What one forward pass of the model works on: a new token for some slots, and pieces of prompts for others.

All of it is one row of tokens to the model: first one token for each decoding slot, then drafts of what
follows them, then the pieces one after the other. Layers that work token by token need not know which is
which, and the weights are read once for all. Only the KV cache and the attention take the row apart again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from samovar_server.engine.adapters import Adapter


class Logits(Enum):
    """Of which of a piece's tokens the logits are wanted."""

    NONE = "none"
    LAST = "last"
    EVERY = "every"


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token of a slot, to be written at `position`: the newest, or one of a draft, so many
    places `ahead` of it. Its logits are wanted."""

    slot: int
    token: int
    position: int
    adapter: Adapter | None = None
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Prompt tokens of a slot, from position `start` on."""

    slot: int
    tokens: Seq[int]
    start: int
    logits: Logits = Logits.LAST
    adapter: Adapter | None = None

    @property
    def end(self) -> int:
        """The position behind the last token."""
        return self.start + len(self.tokens)

    @property
    def rows(self) -> int:
        """Of how many tokens the logits are wanted."""
        return {Logits.NONE: 0, Logits.LAST: 1, Logits.EVERY: len(self.tokens)}[self.logits]


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that stand one behind the other in the row of a step, from `row` on, and in `slot`, from
    `position` on."""

    row: int
    count: int
    slot: int
    position: int


class Runs:
    """All tokens of a step, as runs."""

    def __init__(self, runs: Seq[Run]) -> None:
        self._runs = runs
        self.positions = max(run.position + run.count for run in runs)
        """How many the longest of the slots has behind the step."""
        self._slots = max(run.slot for run in runs) + 1
        self._parts: dict[int, Tensor] = {}

    def fit(self, buffer: Tensor) -> bool:
        """Whether a cache's [slots, heads, length, head_dim] has all their places. Kernels do not ask."""
        return self._slots <= buffer.shape[0] and self.positions <= buffer.shape[2]

    @functools.cached_property
    def places(self) -> Tensor:
        """Each token's slot and position: [tokens, 2]."""
        return torch.tensor(
            [(run.slot, run.position + ahead) for run in self._runs for ahead in range(run.count)]
        )

    def parts(self, most: int) -> Tensor:
        """The runs cut into so many tokens at most: [parts, 4], their fields. Computed once a step."""
        parts = self._parts.get(most)
        if parts is None:
            rows = [
                (run.row + done, min(most, run.count - done), run.slot, run.position + done)
                for run in self._runs
                for done in range(0, run.count, most)
            ]
            parts = self._parts[most] = torch.tensor(rows)
        return parts


@dataclass(slots=True)
class Together:
    """New tokens that a GPU attends with at once, one for each of some slots, at `positions` [n].

    Attention runs over all slots from `first` to `last` (exclusive) and over the first `length` positions.
    `rows` [n] are the queries' places among those slots, or None when there is one for each, in order.
    """

    positions: Tensor
    first: int
    last: int
    length: int
    rows: Tensor | None
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, slots: Seq[int], index: Tensor, positions: Tensor, length: int) -> Together:
        """That of new tokens for `slots`, which are in `index`, too."""
        first, last = min(slots), max(slots) + 1
        whole = slots == list(range(first, last))
        return cls(positions, first, last, length, None if whole else index - first)

    @property
    def queries(self) -> int:
        """How many there are."""
        return self.positions.shape[0]

    def mask(self, window: int | None, like: Tensor) -> Tensor:
        """Additive mask [slots, 1, 1, length]; computed once a step."""
        mask = self.masks.get(window)
        if mask is None:
            queries = self.positions
            if self.rows is not None:  # a slot without a query sees its first position, and nobody looks
                queries = queries.new_zeros(self.last - self.first).index_copy_(0, self.rows, queries)
            keys = torch.arange(self.length, device=like.device)
            mask = self.masks[window] = _mask(queries[:, None, None, None], keys, window, like)
        return mask


@dataclass(slots=True)
class Decoding:
    """The decoding part of a step: tokens of `slots` [n], whose keys and values are written at `places` [n].

    Those are their positions, but for rows of a graph that stand for nobody. `together` is how a GPU attends
    with them, None on a CPU.
    """

    slots: Tensor
    places: Tensor
    together: Together | None = None
    indices: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def rows_of(self, buffer: Tensor) -> Tensor:
        """Where `places` are in a cache's [slots, heads, length, head_dim], the first three dimensions
        taken as one: [n * heads]. Computed once a step for each size."""
        _, heads, length, _ = buffer.shape
        index = self.indices.get((heads, length))
        if index is None:
            firsts = torch.arange(heads, device=buffer.device) * length
            index = (self.slots * (heads * length) + self.places)[:, None] + firsts
            index = self.indices[heads, length] = index.flatten()
        return index


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions of a step's tokens, ready to be applied to queries, keys and values in one go.

    Su et al., RoFormer, 2021, with a head's halves rotated against each other, as transformers has it:
    (a, b) becomes (a cos - b sin, b cos + a sin). `cos` and `sin` are [tokens, heads, head_dim], the first
    half of the sine negated. Those of queries are scaled; those of values, which have no position, are 1 and
    0. `source` is the tensor that they were made from.
    """

    cos: Tensor
    sin: Tensor
    source: Tensor

    @classmethod
    def of(cls, cos: Tensor, sin: Tensor, heads: Seq[int], scaling: float) -> Rotary:
        """From transformers' [1, tokens, head_dim], for so many heads of queries, keys and values."""
        queries, keys, values = heads
        first, second = sin.chunk(2, -1)
        signed = torch.cat((-first, second), -1)
        tables = []
        for table, still in ((cos, torch.ones_like), (signed, torch.zeros_like)):
            turned = table[0, :, None]
            parts = (turned * scaling, queries), (turned, keys), (still(turned), values)
            tables.append(torch.cat([part.expand(-1, count, -1) for part, count in parts], 1))
        return cls(tables[0], tables[1], cos)

    def turn(self, heads: Tensor) -> Tensor:
        """heads [tokens, heads, head_dim] at their positions."""
        first, second = heads.chunk(2, -1)
        return torch.addcmul(heads * self.cos, torch.cat((second, first), -1), self.sin)


@dataclass(slots=True)
class Step:
    """A forward pass: the decoding part, if any, and the pieces behind it.

    In one that is `adapted`, layers have hooks by which adapters add to their outputs. In one that is
    `fused`, attention is left to torch's fused kernels wherever they know it: on a GPU, and without a
    promise of bits. `windows` are the sliding windows that layers asked for; None is unlimited attention.
    """

    decoding: Decoding | None
    pieces: Seq[Piece]
    adapted: bool = False
    fused: bool = False
    masks: dict[tuple[range, int | None], Tensor] = field(default_factory=dict)
    rotary: Rotary | None = None
    windows: set[int | None] = field(default_factory=set)
    stacked: bool = False
    """Whether the first layer has computed all of them (see `stack`)."""
    decoded: int = field(init=False)
    """How many tokens of the row are the decoding part's."""
    _runs: Runs | None = None

    def __post_init__(self) -> None:
        self.decoded = 0 if self.decoding is None else self.decoding.slots.shape[0]

    @property
    def runs(self) -> Runs:
        """The tokens of the step, as attention on a CPU wants them."""
        if self._runs is None:
            runs = []
            if self.decoding is not None:
                places = zip(self.decoding.slots.tolist(), self.decoding.places.tolist(), strict=True)
                runs = [Run(row, 1, *place) for row, place in enumerate(places)]
            done = self.decoded
            for piece in self.pieces:
                runs.append(Run(done, len(piece.tokens), piece.slot, piece.start))
                done += len(piece.tokens)
            self._runs = Runs(runs)
        return self._runs

    def mask(self, queries: range, window: int | None, like: Tensor) -> Tensor:
        """Additive mask [queries, keys]: a query sees keys up to itself, the last `window` of them."""
        mask = self.masks.get((queries, window))
        if mask is None:
            keys = torch.arange(queries.stop, device=like.device)
            mask = self.masks[queries, window] = _mask(keys[queries.start :, None], keys, window, like)
        return mask


def moved(numbers: Seq[Seq[int]], device: torch.device) -> list[Tensor]:
    """Each of the lists as a tensor on `device`, all brought there by one copy that nobody waits for."""
    together = torch.tensor([number for part in numbers for number in part])
    if device.type == "cuda":  # from pinned memory, which is not used again before the copy is done
        together = together.pin_memory()
    return list(together.to(device, non_blocking=True).split([len(part) for part in numbers]))


def _mask(queries: Tensor, keys: Tensor, window: int | None, like: Tensor) -> Tensor:
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
