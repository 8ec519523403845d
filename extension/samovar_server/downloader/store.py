"""Download jobs on disk, so that they outlive the server: one row a job, in SQLite.

Several servers of one user share the file. Each job has an owner, a server that holds a lock file as long
as it lives; what a dead one has left unfinished goes to whoever asks first.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from samovar_server.downloader.job import Job

KEPT_JOBS = 200
"""How many jobs that have ended are remembered."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS downloads (
    job_id TEXT PRIMARY KEY, owner TEXT NOT NULL, active INTEGER NOT NULL,
    created_at REAL NOT NULL, record TEXT NOT NULL
)
"""


class JobStore:
    """The jobs in `folder`; made when it is opened. Belongs to one thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.owner = secrets.token_hex(8)
        self._lock = FileLock(self._lock_file(self.owner))
        self._lock.acquire()
        self._database = sqlite3.connect(folder / "downloads.sqlite", timeout=10.0)
        with self._database:
            self._database.execute(_SCHEMA)

    def close(self) -> None:
        """Give up what is unfinished: the next server may go on with it."""
        self._database.close()
        self._lock.release()
        self._lock_file(self.owner).unlink(missing_ok=True)

    def save(self, job: Job) -> None:
        """Keep the job as it is now, as this server's."""
        row = (job.job_id, self.owner, job.is_active, job.created_at, json.dumps(asdict(job)))
        with self._database:
            self._database.execute("REPLACE INTO downloads VALUES (?, ?, ?, ?, ?)", row)

    def all(self) -> list[Job]:
        """Every job of every server, the oldest first."""
        rows = self._database.execute("SELECT record FROM downloads ORDER BY created_at, job_id")
        return [Job.from_json(json.loads(record)) for (record,) in rows]

    def adopt(self) -> list[Job]:
        """Take over the unfinished jobs of servers that are gone, the oldest first; forget old ones."""
        others = self._database.execute(
            "SELECT DISTINCT owner FROM downloads WHERE active AND owner != ?", (self.owner,)
        ).fetchall()
        adopted: list[Job] = []
        for (owner,) in others:
            with self._if_gone(owner) as is_gone:
                if is_gone:
                    adopted += self._take(owner)
        with self._database:
            self._database.execute(
                "DELETE FROM downloads WHERE NOT active AND job_id NOT IN "
                "(SELECT job_id FROM downloads WHERE NOT active ORDER BY created_at DESC LIMIT ?)",
                (KEPT_JOBS,),
            )
        return sorted(adopted, key=lambda job: job.created_at)

    def _take(self, owner: str) -> list[Job]:
        with self._database:
            rows = self._database.execute(
                "SELECT record FROM downloads WHERE active AND owner = ?", (owner,)
            ).fetchall()
            self._database.execute(
                "UPDATE downloads SET owner = ? WHERE active AND owner = ?", (self.owner, owner)
            )
        return [Job.from_json(json.loads(record)) for (record,) in rows]

    @contextmanager
    def _if_gone(self, owner: str) -> Iterator[bool]:
        """Whether that server is gone; nobody else finds so meanwhile."""
        lock = FileLock(self._lock_file(owner))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
            self._lock_file(owner).unlink(missing_ok=True)

    def _lock_file(self, owner: str) -> Path:
        return self._folder / f"downloads-{owner}.lock"
