"""Downloads as the server tells of them. The state of the widget for downloads; free of ipywidgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samovar.progress import duration, share, size
from samovar.records import Download, Event

SHOWN = 12
"""How many are shown, the latest first; the server keeps older ones for a while."""


@dataclass(frozen=True, slots=True)
class DownloadRow:
    """One download as it is shown. `fraction` is from 0 to 1, None when nobody knows how large it is."""

    key: str
    name: str
    words: str
    fraction: float | None
    runs: bool
    can_resume: bool
    failure: str | None


class TransferState:
    """The downloads. `reset` with what the server says, then `apply` each event; not thread-safe."""

    def __init__(self) -> None:
        self._jobs: dict[str, Download] = {}

    def reset(self, downloads: Sequence[Download]) -> None:
        """Forget all else."""
        self._jobs = {job.job_id: job for job in downloads}

    def apply(self, event: Event) -> None:
        """Take in what happened; what is not about a download changes nothing."""
        if event.kind == "download":
            self.put(Download.from_json(event.data["job"]))

    def put(self, job: Download) -> None:
        """Note what one download is now."""
        self._jobs[job.job_id] = job

    def downloads(self) -> list[DownloadRow]:
        """The latest downloads, the newest first."""
        jobs = sorted(self._jobs.values(), key=lambda job: job.created_at, reverse=True)
        return [_row(job) for job in jobs[:SHOWN]]


def _row(job: Download) -> DownloadRow:
    return DownloadRow(
        key=job.job_id,
        name=job.url if job.revision is None else f"{job.url} ({job.revision[:12]})",
        words=" · ".join(word for word in _words(job) if word),
        fraction=min(job.bytes_done / job.bytes_total, 1.0) if job.bytes_total else None,
        runs=not job.is_over,
        can_resume=job.status in {"failed", "cancelled"},
        failure=job.error,
    )


def _words(job: Download) -> list[str]:
    amount = share(job.bytes_done, job.bytes_total) or (size(job.bytes_done) if job.bytes_done else "")
    files = f"{job.files_downloaded} of {job.files_total} files" if job.files_total else ""
    if job.status == "downloading":
        rate = f"{size(job.bytes_per_second)}/s" if job.bytes_per_second else ""
        left = f"{duration(job.eta_seconds)} left" if job.eta_seconds is not None else ""
        percent = f"{job.bytes_done / job.bytes_total:.0%}" if job.bytes_total else ""
        return ["downloading", percent, amount, rate, left, files]
    took = f"in {duration(job.duration_seconds)}" if job.duration_seconds is not None else ""
    if job.status == "completed":
        return ["completed", amount, files, took]
    return [job.status, amount, files, "" if job.error else job.message]
