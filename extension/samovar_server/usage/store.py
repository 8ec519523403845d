"""Usage on disk: SQLite, by user and model, in all and by hour for the last days.

Written through a write-ahead log without waiting for the disk: what is committed survives the end of the
process, `kill -9` included, but for a crash of the machine (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from samovar_server.usage.records import Count, Key, Tokens, Usage

KEPT_HOURS = 48
"""Hours that are kept apart; older ones count in the whole only."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS hours (
    hour INTEGER, user TEXT, model TEXT, requests INTEGER, prompt INTEGER, output INTEGER,
    PRIMARY KEY (user, hour, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
    user TEXT, model TEXT, requests INTEGER, prompt INTEGER, output INTEGER, PRIMARY KEY (user, model)
) WITHOUT ROWID;
"""
_ADD_HOURS = """
INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, prompt = prompt + excluded.prompt,
    output = output + excluded.output
"""
_ADD_TOTALS = """
INSERT INTO totals VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, prompt = prompt + excluded.prompt,
    output = output + excluded.output
"""
_USAGE = """
SELECT t.user, t.model, t.requests, t.prompt, t.output,
    COALESCE(SUM(h.requests), 0), COALESCE(SUM(h.prompt), 0), COALESCE(SUM(h.output), 0)
FROM totals t LEFT JOIN hours h ON h.user = t.user AND h.model = t.model AND h.hour >= :since
WHERE :user IS NULL OR t.user = :user GROUP BY t.user, t.model ORDER BY t.user, t.model
"""


class UsageStore:
    """The counts in `file`, made when it is opened. Belongs to one thread; several servers may share it."""

    def __init__(self, file: Path, log: logging.Logger) -> None:
        try:
            self._database = _opened(str(file))
        except (OSError, sqlite3.Error) as error:
            log.warning(
                "samovar: usage cannot be kept in %s (%s); it is counted until this server ends. Make the "
                "folder writable, or name another by JUPYTER_DATA_DIR.",
                file,
                error,
            )
            self._database = _opened(":memory:")

    def add(self, counts: Iterable[tuple[Key, Count]], hour: int) -> None:
        """Add to what has been counted. Raises sqlite3.Error, and then has added nothing."""
        rows = [
            (key.hour, key.user, key.model, count.requests, count.tokens.prompt, count.tokens.output)
            for key, count in counts
        ]
        with self._database:
            self._database.executemany(_ADD_HOURS, rows)
            self._database.executemany(_ADD_TOTALS, [row[1:] for row in rows])
            self._database.execute("DELETE FROM hours WHERE hour < ?", (hour - KEPT_HOURS,))

    def hours(self, user: str, since: int) -> dict[int, int]:
        """Tokens of `user` by hour, from the hour `since` on."""
        rows = self._database.execute(
            "SELECT hour, SUM(prompt + output) FROM hours WHERE user = ? AND hour >= ? GROUP BY hour",
            (user, since),
        )
        return dict(rows.fetchall())

    def usage(self, user: str | None, since: int) -> list[Usage]:
        """What `user` (None: everybody) has used of each model, in all and from the hour `since` on."""
        rows = self._database.execute(_USAGE, {"user": user, "since": since})
        return [
            Usage(
                whose,
                model,
                Count(requests, Tokens(prompt, output)),
                Count(day_requests, Tokens(day_prompt, day_output)),
            )
            for whose, model, requests, prompt, output, day_requests, day_prompt, day_output in rows
        ]

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _opened(name: str) -> sqlite3.Connection:
    if name != ":memory:":
        Path(name).parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(name, timeout=10.0)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        with database:
            database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
