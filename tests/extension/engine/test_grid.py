"""The grid of blocks: chunks only ever end where a block does, whatever the budget."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from samovar_server.engine.grid import HALVED_AT, block_end, border, cut, tile

BORDERS = {0}
while (last := max(BORDERS)) < 3 * HALVED_AT[-1]:
    BORDERS.add(block_end(last))


def test_the_last_border_is_found_from_any_position() -> None:
    for position in range(2 * HALVED_AT[-1]):
        assert border(position) == max(place for place in BORDERS if place <= position)


@pytest.mark.parametrize("seed", range(20))
def test_however_a_prompt_is_cut_its_blocks_are_the_same(seed: int) -> None:
    rng = random.Random(seed)
    place, length = 0, 2 * HALVED_AT[-1]
    while place < length:
        end = cut(place, budget := rng.randrange(1, 400))
        assert end in BORDERS
        assert end - place <= budget or end == block_end(place), "more than the budget is one block at most"
        assert end > place
        place = end


def test_every_block_is_of_one_tile_and_no_tile_is_cut_within_a_block() -> None:
    for border_, following in pairwise(sorted(BORDERS)):
        assert {tile(border_)} == {tile(place) for place in BORDERS if place in tile(border_)}
        assert following in tile(border_) or following == tile(border_).stop
