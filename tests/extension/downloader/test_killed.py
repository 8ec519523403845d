"""kill -9 at random moments; `tests/benchmarks/downloads.py` does the same 200 times."""

from __future__ import annotations

from pathlib import Path

import pytest

from samovar_server.downloader.fetch import READ_BYTES
from tests.fakes.killed_downloads import Victim, trial

SEEDS = range(5)


@pytest.mark.parametrize("victim", ["fetcher", "server"])
def test_after_a_kill_it_goes_on_where_it_was(victim: Victim, tmp_path: Path) -> None:
    outcomes = []
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
        outcomes.append(trial(seed, victim, tmp_path / str(seed)))
    assert any(outcome.was_killed for outcome in outcomes)
    assert max(outcome.refetched for outcome in outcomes) <= READ_BYTES
