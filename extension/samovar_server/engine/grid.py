"""Where attention may cut: between which prompt tokens, and between which keys. A fixed grid.

What is attended with together is one product, whose shape decides the last bits of the result. So the grid
depends on positions alone: a prompt cut into chunks, or begun behind a reused prefix, only at borders of
blocks meets the same shapes however it was cut. Blocks are finer where a query has many keys, since one block
is the least that a step beside decoding can take. Where keys are few, some blocks make a tile: it may be cut
between them, and is then filled up with rows of zeros.
"""

from __future__ import annotations

WIDEST = 16
FINEST = 4
HALVED_AT = (1024, 2048)
"""The positions from which on blocks are half as wide as before; multiples of WIDEST."""
TILES = ((64, 64), (1024, 32))
"""Up to a position, how many queries are attended with together: some blocks, whose products are then less
than those of each."""

DECODE_BLOCK = 192
"""Keys, and values, that a decode product takes at most. MKL adds up so many terms in one go without AVX512,
twice as many with it; it splits longer sums at places that depend on their length."""
DECODE_STEP = 16
"""Decode attends to a multiple of this many positions: whole vectors, and little that is read in vain."""
LEAST_DECODED = 64
"""The least that a block has: for tiny products torch has kernels of its own, which add up otherwise."""


def decode_length(seen: int) -> int:
    """How many positions decode attends to so that none of `seen` is missing."""
    length = -(-seen // DECODE_STEP) * DECODE_STEP
    return max(length, (length - 1) // DECODE_BLOCK * DECODE_BLOCK + LEAST_DECODED)


def decode_blocks(length: int) -> list[slice]:
    """The first `length` positions, cut for decode's products."""
    return [slice(start, min(start + DECODE_BLOCK, length)) for start in range(0, length, DECODE_BLOCK)]


def block_end(start: int) -> int:
    """Where the block ends that begins at the border `start`."""
    return start + (WIDEST >> sum(start >= place for place in HALVED_AT))


def tile(start: int) -> range:
    """The positions that are attended with together with the border `start`."""
    width = next((width for end, width in TILES if start < end), block_end(start) - start)
    begin = start // width * width
    return range(begin, begin + width)


def border(position: int) -> int:
    """The last border at or before `position`."""
    size = WIDEST >> sum(position > place for place in HALVED_AT)
    return position // size * size


def cut(start: int, tokens: int) -> int:
    """Where a chunk of at most `tokens` tokens from the border `start` on ends; of one block at least."""
    return max(border(start + tokens), block_end(start))
