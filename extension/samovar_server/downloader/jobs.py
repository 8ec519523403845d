"""The server's downloads: which run, which wait, what has become of the others.

One process for each, so that it can be killed at any byte; at most `limit` at once, the others in the order
in which they were asked for. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from samovar_server.callers import OWNER, Caller
from samovar_server.downloader.job import DownloadCounts, Job, Rate, Wanted, advanced, as_json, ended, queued
from samovar_server.downloader.store import JobStore
from samovar_server.errors import Conflict, DownloadNotFound


class Process(Protocol):
    """A download that runs: its events as lines, None at their end."""

    lines: asyncio.Queue[bytes | None]
    exit_code: asyncio.Future[int]

    def kill(self) -> None:
        """End it now."""


Launch = Callable[[Wanted], Process]
Tell = Callable[[str, dict[str, Any]], None]
"""Takes what has changed (a status, or "progress") and the job as the routes show it."""


class Downloads:
    """All downloads of this server; `open_store` is called when it starts."""

    def __init__(
        self,
        launch: Launch,
        open_store: Callable[[], JobStore],
        *,
        limit: int,
        tell: Tell,
        log: logging.Logger,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._launch = launch
        self._open_store = open_store
        self._limit = limit
        self._tell = tell
        self._log = log
        self._now = now
        self._store: JobStore | None = None
        self._jobs: dict[str, Job] = {}
        self._waiting: list[str] = []
        self._running: dict[str, Process] = {}
        self._rates: dict[str, Rate] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetched_bytes = 0
        self._failures: Counter[str] = Counter()

    def start(self) -> None:
        """Go on with what a server before this one has left unfinished."""
        self._store = self._open_store()
        for job in self._store.adopt():
            self._log.info("The download of %s goes on", job.url)
            self._queue(job)

    async def stop(self) -> None:
        """End the processes; what is unfinished stays so, for the next server."""
        store, self._store = self._store, None
        self._waiting.clear()
        for process in self._running.values():
            process.kill()
        await self.settled()
        if store is not None:
            store.close()

    async def settled(self) -> None:
        """Wait until no process runs, those of cancelled downloads included."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def request(self, wanted: Wanted, url: str, asker: str = OWNER.name) -> Job:
        """Begin a download for `asker`, or join the equal one that runs or waits."""
        for job in self._jobs.values():
            if job.is_active and job.wanted == wanted:
                return self._join(job, asker)
        job = Job(uuid.uuid4().hex, wanted, url, self._now(), revision=wanted.revision, askers=(asker,))
        self._queue(job)
        return self._jobs[job.job_id]

    def all(self) -> list[Job]:
        """Every job that is remembered, the latest first; those of this user's other servers too."""
        stored = {job.job_id: job for job in self._opened().all()}
        return sorted({**stored, **self._jobs}.values(), key=lambda job: job.created_at, reverse=True)

    def get(self, job_id: str) -> Job:
        """One job. Raises DownloadNotFound."""
        job = self._jobs.get(job_id) or next((job for job in self.all() if job.job_id == job_id), None)
        if job is None:
            raise self._not_found(job_id)
        return job

    def of(self, caller: Caller, job_id: str) -> Job:
        """One job that `caller` may know of. Raises DownloadNotFound."""
        job = self.get(job_id)
        if not job.is_shown_to(caller):
            raise self._not_found(job_id)
        return job

    def cancel_of(self, caller: Caller, job_id: str) -> Job:
        """As `cancel`, of a job that nobody but `caller` waits for, unless he manages the server."""
        others = [asker for asker in self.of(caller, job_id).askers if asker != caller.name]
        if others and not caller.admin:
            raise Conflict(f"Others wait for the download {job_id}, too. An administrator can cancel it.")
        return self.cancel(job_id)

    def cancel(self, job_id: str) -> Job:
        """Stop a download at once; what has come stays for a later one. Raises DownloadNotFound, Conflict."""
        job = self._own(job_id)
        if not job.is_active:
            raise Conflict(f"The download {job_id} is {job.status} already.")
        if job_id in self._waiting:
            self._waiting.remove(job_id)
        process = self._running.get(job_id)
        if process is not None:
            process.kill()
        self._change(ended(job, "cancelled", "cancelled; what has come is kept", self._now()))
        return self._jobs[job_id]

    def resume(self, job_id: str) -> Job:
        """Go on with a download that was cancelled or has failed. Raises DownloadNotFound, Conflict."""
        job = self.get(job_id)
        if job.status not in ("cancelled", "failed"):
            raise Conflict(
                f"The download {job_id} is {job.status}: only one that was cancelled or has failed can go on."
            )
        same = next((o for o in self._jobs.values() if o.is_active and o.wanted == job.wanted), None)
        if same is not None:
            return same
        self._queue(job)
        return self._jobs[job_id]

    def shown(self, job: Job) -> dict[str, Any]:
        """The job as the routes show it."""
        rate = self._rates.get(job.job_id)
        return as_json(job, rate.per_second() if rate else 0.0, self._now())

    def counts(self) -> DownloadCounts:
        """How this server's downloads are, for Prometheus."""
        jobs = self._jobs.values()
        left = sum(job.bytes_total - job.bytes_done for job in jobs if job.status == "downloading")
        by_status = Counter(job.status for job in jobs)
        return DownloadCounts(by_status, left, self._fetched_bytes, dict(self._failures))

    def _join(self, job: Job, asker: str) -> Job:
        if asker not in job.askers:
            job = self._jobs[job.job_id] = replace(job, askers=(*job.askers, asker))
            self._opened().save(job)
        return job

    @staticmethod
    def _not_found(job_id: str) -> DownloadNotFound:
        return DownloadNotFound(
            f"There is no download {job_id!r}. GET /v1/models/download lists those there are."
        )

    def _own(self, job_id: str) -> Job:
        job = self.get(job_id)
        if job.is_active and job_id not in self._jobs:
            raise Conflict(f"The download {job_id} belongs to another server of yours: ask that one.")
        return job

    def _queue(self, job: Job) -> None:
        self._change(queued(job))
        self._waiting.append(job.job_id)
        self._fill()

    def _fill(self) -> None:
        """Start what may start."""
        while self._store is not None and self._waiting and len(self._running) < self._limit:
            job_id = self._waiting.pop(0)
            job = self._jobs[job_id]
            try:
                process = self._launch(job.wanted)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                self._fail(job, "not_started", f"The download's process could not be started ({reason}).")
                continue
            self._running[job_id] = process
            self._rates[job_id] = Rate()
            self._change(replace(job, status="downloading", message="starting", started_at=self._now()))
            task = asyncio.create_task(self._follow(job_id, process))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _follow(self, job_id: str, process: Process) -> None:
        """Note what the process tells until it ends, then let the next one begin."""
        while (line := await process.lines.get()) is not None:
            if self._is_wanted(job_id, process):
                self._take(job_id, json.loads(line))
        code = await process.exit_code
        job = self._jobs[job_id]
        if self._is_wanted(job_id, process) and job.is_active:
            self._fail(
                job,
                "process_ended",
                f"The download's process ended unexpectedly (exit code {code}): resume it; what has come is "
                "kept. The server's log may say more.",
            )
        if self._running.get(job_id) is process:
            del self._running[job_id]
            del self._rates[job_id]
        self._fill()

    def _is_wanted(self, job_id: str, process: Process) -> bool:
        """Whether what this process tells still counts: not after a cancel, nor after the server's stop."""
        is_running = self._running.get(job_id) is process and self._store is not None
        return is_running and self._jobs[job_id].status == "downloading"

    def _take(self, job_id: str, event: Mapping[str, Any]) -> None:
        before = self._jobs[job_id]
        job = advanced(before, event, self._now())
        if event["event"] == "progress" and event["phase"] == "downloading":
            rate, fetched = self._rates[job_id], event["bytes_fetched"]
            self._fetched_bytes += fetched - rate.latest
            rate.add(self._now(), fetched)
        if job.status != before.status:
            self._change(job)
        elif job != before:
            self._jobs[job_id] = job
            self._tell("progress", self.shown(job))

    def _fail(self, job: Job, code: str, error: str) -> None:
        self._change(replace(ended(job, "failed", "failed", self._now()), code=code, error=error))

    def _change(self, job: Job) -> None:
        """A new status: for the disk, and for all who listen."""
        self._jobs[job.job_id] = job
        if job.status == "failed":
            self._failures[job.code or "unknown"] += 1
        self._opened().save(job)
        self._tell(job.status, self.shown(job))

    def _opened(self) -> JobStore:
        assert self._store is not None, "downloads are started with the workbench"
        return self._store
