"""What each user has used: counted in memory while requests run, and on disk soon after."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from samovar_server.quotas.window import first_hour, hour_of
from samovar_server.usage.records import Count, Key, Tokens, Usage
from samovar_server.usage.store import UsageStore

WRITE_SECONDS = 5.0
"""How often what a long stream has used is written; so much of it may be lost if the server is killed."""


class UsageLedger:
    """Counts by user and model; `now` tells the time in Unix seconds. Opens `file` when it first needs it."""

    def __init__(
        self, file: Callable[[], Path], log: logging.Logger, now: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._log = log
        self._now = now
        self._pending: dict[Key, Count] = {}
        self._written_at = now()
        self._opened: UsageStore | None = None

    @contextmanager
    def request(self, user: str, model: str, prompt_tokens: int) -> Iterator[Callable[[Tokens], None]]:
        """Count a request; yields what is to be told of further tokens. It is on disk when this is left."""
        self._add(user, model, Count(1, Tokens(prompt_tokens)))
        try:
            yield lambda tokens: self._add(user, model, Count(0, tokens))
        finally:
            self._write()

    def by_hour(self, user: str) -> dict[int, int]:
        """Tokens of `user` within the last day, by hour."""
        self._write()
        return self._store.hours(user, first_hour(self._now()))

    def usage(self, user: str | None) -> list[Usage]:
        """What `user` has used of each model; None: everybody."""
        self._write()
        return self._store.usage(user, first_hour(self._now()))

    def close(self) -> None:
        """Write what is counted and close the file."""
        if self._pending:
            self._write()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _store(self) -> UsageStore:
        if self._opened is None:
            self._opened = UsageStore(self._file(), self._log)
        return self._opened

    def _add(self, user: str, model: str, count: Count) -> None:
        key = Key(hour_of(self._now()), user, model)
        self._pending[key] = self._pending.get(key, Count()) + count
        if self._now() - self._written_at >= WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        self._written_at = self._now()
        if not self._pending:
            return
        try:
            self._store.add(self._pending.items(), hour_of(self._now()))
        except sqlite3.Error as error:  # kept, and written with what comes next
            self._log.warning("samovar: usage could not be written (%s)", error)
        else:
            self._pending.clear()
