"""The manager of downloads, with processes that are scripted by the test."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samovar_server.downloader.job import Job, Rate, Wanted, advanced, as_json
from samovar_server.downloader.jobs import Downloads
from samovar_server.downloader.store import JobStore
from samovar_server.errors import Conflict, DownloadNotFound

PLANNED = {"event": "planned", "revision": "c" * 40, "files_total": 2, "bytes_total": 100}
DONE = {"event": "done", "name": "org/a", "path": "/models/a", "already_there": False, "revision": "c" * 40}


def progress(done: int, **more: Any) -> dict[str, Any]:
    files = [{"path": "a", "bytes_done": done, "bytes_total": 100, "finished": False}]
    told = {"phase": "downloading", "message": "m", "bytes_done": done, "bytes_total": 100}
    told["bytes_fetched"] = done
    return {"event": "progress", **told, "files_done": 0, "files": files, **more}


class FakeProcess:
    """Tells what the test says, and ends when it is told to or killed."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def tell(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.lines.put_nowait(json.dumps(event).encode())

    def end(self, code: int = 0) -> None:
        self.lines.put_nowait(None)
        self.exit_code.set_result(code)

    def kill(self) -> None:
        self.end(-9)


class Desk:
    """A manager and what it does: the processes it starts, the changes it tells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[FakeProcess] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.news = asyncio.Event()
        self.clock = 1000.0
        self.jobs = self.make()

    def make(self, limit: int = 1) -> Downloads:
        return Downloads(
            self.launch,
            lambda: JobStore(self.folder),
            limit=limit,
            tell=self.tell,
            log=logging.getLogger("test"),
            now=lambda: self.clock,
        )

    def launch(self, wanted: Wanted) -> FakeProcess:
        if wanted.reference == "org/unstartable":
            raise FileNotFoundError(2, "No such file or directory")
        self.processes.append(FakeProcess(wanted))
        return self.processes[-1]

    def tell(self, change: str, job: dict[str, Any]) -> None:
        self.told.append((change, job))
        self.news.set()

    async def until(self, job: Job, status: str) -> Job:
        """Wait for the job to get there."""
        async with asyncio.timeout(20):
            while (now := self.jobs.get(job.job_id)).status != status:
                self.news.clear()
                await self.news.wait()
        return now

    def ask(self, name: str, **more: Any) -> Job:
        return self.jobs.request(Wanted(f"org/{name}", **more), name)


@pytest.fixture
def desk(jp_asyncio_loop: Any, tmp_path: Path) -> Iterator[Desk]:
    async def make() -> Desk:
        desk = Desk(tmp_path)
        desk.jobs.start()
        return desk

    desk = jp_asyncio_loop.run_until_complete(make())
    yield desk
    jp_asyncio_loop.run_until_complete(desk.jobs.stop())


async def test_a_download_from_its_start_to_its_end(desk: Desk) -> None:
    job = desk.ask("a")
    assert job.status == "downloading"
    (process,) = desk.processes
    desk.clock = 1002.0
    process.tell(PLANNED, progress(40), DONE)
    process.end()
    job = await desk.until(job, "completed")
    assert (job.path, job.revision, job.bytes_done, job.files_downloaded) == ("/models/a", "c" * 40, 100, 2)
    changes = [change for change, _ in desk.told]
    assert changes == ["pending", "downloading", "progress", "progress", "completed"]
    shown = desk.jobs.shown(job)
    assert (shown["duration_seconds"], shown["url"], shown["current_file"]) == (2.0, "a", None)


async def test_at_most_so_many_at_once_and_the_others_in_order(desk: Desk) -> None:
    jobs = [desk.ask(name) for name in "abc"]
    assert [job.status for job in jobs] == ["downloading", "pending", "pending"]
    for number, job in enumerate(jobs):
        assert len(desk.processes) == number + 1
        desk.processes[number].tell(DONE)
        desk.processes[number].end()
        await desk.until(job, "completed")
        if number < 2:
            await desk.until(jobs[number + 1], "downloading")
    assert [process.wanted.reference for process in desk.processes] == ["org/a", "org/b", "org/c"]


async def test_an_equal_request_joins_and_another_does_not(desk: Desk) -> None:
    first = desk.ask("a", include=("*.json",))
    assert desk.ask("a", include=("*.json",)).job_id == first.job_id
    assert desk.ask("a").job_id != first.job_id
    desk.jobs.cancel(first.job_id)
    assert desk.ask("a", include=("*.json",)).job_id != first.job_id


async def test_a_cancel_kills_at_once_and_lets_the_next_begin(desk: Desk) -> None:
    first, second = desk.ask("a"), desk.ask("b")
    desk.processes[0].tell(PLANNED, progress(40))
    assert desk.jobs.cancel(first.job_id).status == "cancelled"
    assert desk.processes[0].exit_code.result() == -9
    await desk.until(second, "downloading")
    assert desk.jobs.get(first.job_id).status == "cancelled"
    with pytest.raises(Conflict, match="cancelled already"):
        desk.jobs.cancel(first.job_id)


async def test_one_that_waits_can_be_cancelled_too(desk: Desk) -> None:
    first, second = desk.ask("a"), desk.ask("b")
    desk.jobs.cancel(second.job_id)
    desk.processes[0].tell(DONE)
    desk.processes[0].end()
    await desk.until(first, "completed")
    await desk.jobs.settled()
    assert len(desk.processes) == 1


async def test_resuming_goes_on_under_the_same_id(desk: Desk) -> None:
    job = desk.ask("a")
    desk.processes[0].tell(PLANNED, progress(40))
    desk.processes[0].tell({"event": "failed", "code": "hub_error", "message": "The Hub answered 503."})
    desk.processes[0].end(1)
    failed = await desk.until(job, "failed")
    assert (failed.code, failed.error, failed.bytes_done) == ("hub_error", "The Hub answered 503.", 40)
    await desk.jobs.settled()
    again = desk.jobs.resume(job.job_id)
    assert (again.job_id, again.status, again.error, again.bytes_done) == (
        job.job_id,
        "downloading",
        None,
        40,
    )
    with pytest.raises(Conflict, match="only one that was cancelled or has failed"):
        desk.jobs.resume(job.job_id)


async def test_a_process_that_dies_without_a_word_is_a_failure(desk: Desk) -> None:
    job = desk.ask("a")
    desk.processes[0].end(-11)
    failed = await desk.until(job, "failed")
    assert failed.code == "process_ended"
    assert "-11" in str(failed.error)
    assert "resume" in str(failed.error)


async def test_a_process_that_cannot_be_started_is_a_failure(desk: Desk) -> None:
    job, other = desk.ask("unstartable"), desk.ask("a")
    assert desk.jobs.get(job.job_id).code == "not_started"
    assert other.status == "downloading"


async def test_what_is_unfinished_goes_on_in_the_next_server(desk: Desk) -> None:
    first, second, third = desk.ask("a"), desk.ask("b"), desk.ask("c")
    desk.processes[0].tell(PLANNED, progress(40))
    await _told(desk, "progress")
    desk.jobs.cancel(third.job_id)
    await desk.jobs.stop()
    desk.jobs = desk.make()
    desk.jobs.start()
    assert desk.processes[-1].wanted.reference == "org/a"
    assert [desk.jobs.get(job.job_id).status for job in (first, second, third)] == [
        "downloading",
        "pending",
        "cancelled",
    ]
    assert {job.url for job in desk.jobs.all()} == {"a", "b", "c"}


async def _told(desk: Desk, change: str) -> None:
    async with asyncio.timeout(20):
        while change not in [told for told, _ in desk.told]:
            desk.news.clear()
            await desk.news.wait()


async def test_another_server_of_the_user_sees_a_job_and_leaves_it_alone(desk: Desk) -> None:
    job = desk.ask("a")
    other = desk.make()
    other.start()
    try:
        assert len(desk.processes) == 1
        assert [seen.job_id for seen in other.all()] == [job.job_id]
        with pytest.raises(Conflict, match="another server"):
            other.cancel(job.job_id)
    finally:
        await other.stop()


async def test_what_was_here_before_counts_as_done_and_not_as_fetched(desk: Desk) -> None:
    job = desk.ask("a")
    desk.processes[0].tell(PLANNED, progress(60, bytes_fetched=0))
    await _told(desk, "progress")
    desk.clock = 1002.0
    desk.processes[0].tell(progress(80, bytes_fetched=20))
    async with asyncio.timeout(20):
        while desk.jobs.get(job.job_id).bytes_done < 80:
            desk.news.clear()
            await desk.news.wait()
    shown = desk.jobs.shown(desk.jobs.get(job.job_id))
    assert (shown["bytes_per_second"], shown["eta_seconds"]) == (10.0, 2.0)
    counts = desk.jobs.counts()
    assert (counts.fetched_bytes, counts.left_bytes) == (20, 20)
    assert counts.by_status == {"downloading": 1}


async def test_failures_are_counted_by_their_reasons(desk: Desk) -> None:
    for name in ("unstartable", "unstartable", "a"):
        desk.ask(name)
    desk.processes[0].tell({"event": "failed", "code": "disk_full", "message": "The disk is full."})
    desk.processes[0].end(1)
    await desk.jobs.settled()
    counts = desk.jobs.counts()
    assert counts.failures == {"not_started": 2, "disk_full": 1}
    assert counts.by_status == {"failed": 3}


async def test_there_is_no_such_download(desk: Desk) -> None:
    for ask in (desk.jobs.get, desk.jobs.cancel, desk.jobs.resume):
        with pytest.raises(DownloadNotFound, match="nowhere"):
            ask("nowhere")


def test_bytes_never_go_down() -> None:
    job = Job("1", Wanted("org/a"), "org/a", 0.0, status="downloading")
    counts = []
    for done in (10, 50, 20, 60):
        job = advanced(job, progress(done), 1.0)
        counts.append(job.bytes_done)
    assert counts == [10, 50, 50, 60]
    assert job.current_file == "a"
    other = advanced(job, progress(0, phase="saving", message="saving"), 1.0)
    assert (other.bytes_done, other.message) == (60, "saving")


def test_rate_and_time_left() -> None:
    rate = Rate()
    assert rate.per_second() == 0.0
    for second in range(20):
        rate.add(float(second), 100 * second)
    assert rate.per_second() == pytest.approx(100.0)
    job = Job("1", Wanted("org/a"), "org/a", 0.0, "downloading", bytes_total=1000, bytes_done=400)
    assert as_json(job, 100.0, 5.0)["eta_seconds"] == 6.0
    assert as_json(job, 0.0, 5.0)["eta_seconds"] is None
