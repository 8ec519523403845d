"""A few cycles of the benchmark: what an unload has to give back, on the real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.load_cycles import BACK_SECONDS, measure

SERVER_MAY_GROW = 10 * 10**6
"""Bytes: the history of events fills up, to a few megabytes; a model that stayed would be hundreds."""


@pytest.mark.real
def test_an_unload_gives_the_memory_back(demo_model: Path) -> None:
    cycles = measure(demo_model, 2).cycles
    assert len(cycles) == 2
    for cycle in cycles:
        assert cycle.loaded_bytes > 500 * 10**6  # it was there
        assert cycle.left_bytes == 0
        assert cycle.back_seconds < BACK_SECONDS
    assert cycles[-1].server_bytes - cycles[0].server_bytes < SERVER_MAY_GROW
