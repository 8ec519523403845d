"""Counts that outlive the process."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from samovar_server.quotas.window import HOUR
from samovar_server.usage.ledger import WRITE_SECONDS, UsageLedger
from samovar_server.usage.records import Count, Tokens
from samovar_server.usage.store import UsageStore

LOG = logging.getLogger(__name__)
DAY = 24 * HOUR


class Clock:
    now = 1000.0 * DAY

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "samovar" / "usage.sqlite"


@pytest.fixture
def ledger(file: Path, clock: Clock) -> Iterator[UsageLedger]:
    ledger = UsageLedger(lambda: file, LOG, clock)
    yield ledger
    ledger.close()


def stored(file: Path) -> dict[tuple[str, str], Tokens]:
    store = UsageStore(file, LOG)
    try:
        return {(usage.user, usage.model): usage.total.tokens for usage in store.usage(None, 0)}
    finally:
        store.close()


def test_counts_are_by_user_and_model_in_all_and_of_the_day(ledger: UsageLedger, clock: Clock) -> None:
    for user, model, output in (("ada", "m", 3), ("ada", "m", 4), ("ada", "n", 5), ("bob", "m", 6)):
        with ledger.request(user, model, 10) as count:
            count(Tokens(-1, output))
    clock.now += 25 * HOUR
    with ledger.request("ada", "m", 1):
        pass
    everybody = {(usage.user, usage.model): (usage.total, usage.day) for usage in ledger.usage(None)}
    assert everybody == {
        ("ada", "m"): (Count(3, Tokens(19, 7)), Count(1, Tokens(1, 0))),
        ("ada", "n"): (Count(1, Tokens(9, 5)), Count()),
        ("bob", "m"): (Count(1, Tokens(9, 6)), Count()),
    }
    assert {usage.user for usage in ledger.usage("bob")} == {"bob"}


def test_a_days_quota_reads_what_runs_too(ledger: UsageLedger, clock: Clock) -> None:
    with ledger.request("ada", "m", 10) as count:
        count(Tokens(0, 5))
        assert list(ledger.by_hour("ada").values()) == [15]
    assert ledger.by_hour("bob") == {}


def test_a_request_is_on_disk_when_it_ends_and_a_long_one_now_and_then_before(
    ledger: UsageLedger, clock: Clock, file: Path
) -> None:
    with ledger.request("ada", "m", 10) as count:
        count(Tokens(0, 1))
        clock.now += WRITE_SECONDS
        count(Tokens(0, 1))
        assert stored(file) == {("ada", "m"): Tokens(10, 2)}
        count(Tokens(0, 1))
        assert stored(file) == {("ada", "m"): Tokens(10, 2)}
    assert stored(file) == {("ada", "m"): Tokens(10, 3)}


def test_old_hours_go_and_the_whole_stays(ledger: UsageLedger, clock: Clock, file: Path) -> None:
    with ledger.request("ada", "m", 10):
        pass
    clock.now += 30 * DAY
    with ledger.request("ada", "m", 1):
        pass
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT COUNT(*) FROM hours").fetchone() == (1,)
    database.close()
    assert stored(file) == {("ada", "m"): Tokens(11, 0)}


def test_two_servers_of_one_user_add_to_the_same_counts(file: Path, clock: Clock) -> None:
    ledgers = [UsageLedger(lambda: file, LOG, clock) for _ in range(2)]
    for ledger in ledgers * 3:
        with ledger.request("ada", "m", 10):
            pass
    for ledger in ledgers:
        ledger.close()
    assert stored(file) == {("ada", "m"): Tokens(60, 0)}


KILLED = """
import logging, os, signal, sys
from pathlib import Path
from samovar_server.usage.ledger import UsageLedger
from samovar_server.usage.records import Tokens
now = 1000.0
ledger = UsageLedger(lambda: Path(sys.argv[1]), logging.getLogger(), lambda: now)
for _ in range(50):
    with ledger.request("ada", "m", 10) as count:
        count(Tokens(0, 2))
with ledger.request("ada", "m", 10) as count:
    for _ in range(100):
        now += 0.5
        count(Tokens(0, 1))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_at_most_what_came_since_the_last_write(file: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False, timeout=60)
    (kept,) = stored(file).values()
    assert kept.prompt == 51 * 10
    assert 200 - WRITE_SECONDS * 2 <= kept.output <= 200


def test_where_nothing_can_be_written_counting_goes_on_and_the_log_says_so(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    ledger = UsageLedger(lambda: tmp_path / "file" / "usage.sqlite", LOG, clock)
    with ledger.request("ada", "m", 10):
        pass
    assert [usage.total.tokens for usage in ledger.usage("ada")] == [Tokens(10, 0)]
    assert "JUPYTER_DATA_DIR" in caplog.text
    ledger.close()


def test_a_write_that_fails_is_made_up_for(
    ledger: UsageLedger, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ledger.request("ada", "m", 10):
        pass
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA busy_timeout = 0")
    assert ledger._opened is not None
    ledger._opened._database.execute("PRAGMA busy_timeout = 0")
    database.execute("BEGIN IMMEDIATE")
    with ledger.request("ada", "m", 10):
        pass
    assert "could not be written" in caplog.text
    database.execute("ROLLBACK")
    database.close()
    assert [usage.total for usage in ledger.usage("ada")] == [Count(2, Tokens(20, 0))]
