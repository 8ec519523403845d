"""The grid of blocks: chunks only ever end where a block does, whatever the budget."""

from __future__ import annotations

import random

import pytest

from samovar_server.engine.grid import HALVED_AT, block_end, border, cut

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
