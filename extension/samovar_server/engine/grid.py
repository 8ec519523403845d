"""Where a prompt may be cut, and which of its queries are attended with together: a fixed grid.

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
