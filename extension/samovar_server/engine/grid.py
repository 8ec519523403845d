"""Where a prompt may be cut: the fixed grid of blocks in which prefill attends.

A block's queries are attended with together, and its shape decides the last bits of the result. So the
grid depends on positions alone: a prompt cut into chunks, or begun behind a reused prefix, only at borders
of blocks meets the same shapes however it was cut. Blocks are finer where a query has many keys, since one
block is the least that a step beside decoding can take.
"""

from __future__ import annotations

WIDEST = 16
FINEST = 4
HALVED_AT = (1024, 2048)
"""The positions from which on blocks are half as wide as before; multiples of WIDEST."""


def block_end(start: int) -> int:
    """Where the block ends that begins at the border `start`."""
    return start + (WIDEST >> sum(start >= place for place in HALVED_AT))


def border(position: int) -> int:
    """The last border at or before `position`."""
    size = WIDEST >> sum(position > place for place in HALVED_AT)
    return position // size * size


def cut(start: int, tokens: int) -> int:
    """Where a chunk of at most `tokens` tokens from the border `start` on ends; of one block at least."""
    return max(border(start + tokens), block_end(start))
