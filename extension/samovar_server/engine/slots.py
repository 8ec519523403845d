"""Which sequence holds which slot, and what prefix each slot's KV cache still keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STRIDE = 64
"""Tokens that are compared at once."""
LEAST_SHARED = 16
"""Fewer tokens than these are computed anew: their copy, and waiting for it, would cost as much."""


@dataclass(slots=True)
class Slot:
    """A row of the KV cache. `tokens` are those whose keys and values it holds, from the first on.

    They are reused under the same `salt` only: how long a prompt takes would tell one user what another
    has asked, and with another adapter they would be others.

    Tokens of a prompt count and those that were generated behind them, so that a chat goes on where it
    stood: on a CPU both have the same bits. `filled` are the row's positions that take memory, because
    something has been written there since they were last given back.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    salt: str = ""
    busy: bool = False
    released: int = 0
    filled: int = 0


@dataclass(frozen=True, slots=True)
class Trim:
    """Memory of a slot to be given back: that of its positions from `length` on."""

    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """A slot, and how much of the prompt it need not compute: copied from `source` when that differs."""

    slot: int
    source: int
    cached_tokens: int


class SlotPool:
    """Hands out slots; prefers the one that holds the longest prefix of the prompt."""

    def __init__(self, count: int) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self._releases = 0

    @property
    def free(self) -> int:
        """How many slots `acquire` could give out."""
        return sum(not slot.busy for slot in self.slots)

    def longest_prefix(self, prompt: Sequence[int], salt: str = "") -> tuple[Slot, int]:
        """The slot with most of `prompt`, free ones first, and how many tokens of it."""

        def shared(slot: Slot) -> int:
            return common_prefix(slot.tokens, prompt) if slot.salt == salt else 0

        best = max(self.slots, key=lambda slot: (shared(slot), not slot.busy))
        return best, shared(best)

    def acquire(self, prompt: Sequence[int], salt: str = "", *, reuse: bool = True) -> Assignment:
        """Take a free slot for `prompt`. There must be one. Without `reuse` nothing counts as cached."""
        best, cached = self.longest_prefix(prompt, salt)
        if not reuse:
            cached = 0
        free = [slot for slot in self.slots if not slot.busy]
        if cached and not best.busy:
            target = best
        else:
            # Low indices first keeps decode batches small; then the prefix that was unused longest.
            target = min(free, key=lambda slot: (bool(slot.tokens), slot.released, slot.index))
        target.busy, target.salt = True, salt
        target.tokens = list(prompt[:cached])
        return Assignment(target.index, best.index if cached else target.index, cached)

    def prefilled(self, index: int, tokens: Sequence[int]) -> None:
        """The slot now also holds `tokens`, in front of which stands what it held."""
        self.slots[index].tokens.extend(tokens)

    def release(self, index: int, decoded: Sequence[int] = ()) -> None:
        """Give the slot back; it keeps its prefix, and what was `decoded` behind it, until somebody else
        needs the row."""
        self._releases += 1
        slot = self.slots[index]
        slot.tokens.extend(decoded)
        slot.busy, slot.released = False, self._releases

    def fit(self, held: Mapping[int, int], room: int) -> list[Trim]:
        """What to give back so that all rows together take at most `room` positions.

        `held` are the positions of the busy slots that the next step leaves written to. First goes what no
        prompt can use, then prefixes that nobody uses, the one first that was unused longest.
        """
        useful = {slot.index: held[slot.index] if slot.busy else len(slot.tokens) for slot in self.slots}
        for slot in self.slots:
            slot.filled = max(slot.filled, useful[slot.index])
        idle = sorted((slot for slot in self.slots if not slot.busy), key=lambda slot: slot.released)
        steps = [(slot, useful[slot.index]) for slot in self.slots] + [(slot, 0) for slot in idle]
        over = sum(slot.filled for slot in self.slots) - room
        trims: dict[int, Trim] = {}
        for slot, length in steps:
            if over <= 0:
                break
            if slot.filled > length:
                over -= slot.filled - length
                slot.filled = length
                del slot.tokens[length:]
                trims[slot.index] = Trim(slot.index, length)
        return list(trims.values())


def common_prefix(held: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens of `prompt` that are taken over from `held`: some at least, and never the last token.

    The last token's logits start the output, so it is always computed.
    """
    limit = min(len(held), len(prompt) - 1)
    same = 0
    # Many at a time first: this is asked of every slot for every prompt that waits.
    while same + STRIDE <= limit and held[same : same + STRIDE] == prompt[same : same + STRIDE]:
        same += STRIDE
    while same < limit and held[same] == prompt[same]:
        same += 1
    return same if same >= LEAST_SHARED else 0
