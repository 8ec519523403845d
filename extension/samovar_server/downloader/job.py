"""One download as the routes show it, and how what its process tells changes it: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

from samovar_server.callers import Caller

Status = Literal["pending", "downloading", "completed", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)

RATE_SECONDS = 8.0
"""The rate is that of so many latest seconds."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: two requests for the same are one download.

    `reference` is a repo (`org/name`) or an alias, `revision` a branch, tag or commit, `destination` the
    model folder to put it into.
    """

    reference: str
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    quantization: str | None = None
    destination: str | None = None

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """As `asdict` and JSON have made it."""
        return cls(**{**told, "include": tuple(told["include"]), "exclude": tuple(told["exclude"])})


@dataclass(frozen=True, slots=True)
class Job:
    """A download. Times are Unix seconds; `code` is the failure's name for programs, `error` for people.

    `revision` is the one that was asked for until the commit is known. Bytes and files count all that is to
    be there in the end, what an earlier attempt brought included. `askers` are the names of those who have
    asked for it: it is shown to nobody else, as its repo may be one that others do not know of.
    """

    job_id: str
    wanted: Wanted
    url: str
    created_at: float
    status: Status = "pending"
    revision: str | None = None
    started_at: float | None = None
    completed_at: float | None = None
    bytes_total: int = 0
    bytes_done: int = 0
    files_total: int = 0
    files_downloaded: int = 0
    current_file: str | None = None
    files: tuple[Mapping[str, Any], ...] = ()
    path: str | None = None
    message: str = "waiting for its turn"
    code: str | None = None
    error: str | None = None
    askers: tuple[str, ...] = ()

    def is_shown_to(self, caller: Caller) -> bool:
        """Whether `caller` may know of it."""
        return caller.admin or caller.name in self.askers

    @property
    def is_active(self) -> bool:
        """Whether it runs or waits for its turn."""
        return self.status in ("pending", "downloading")

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """As `asdict` and JSON have made it."""
        given = {
            "wanted": Wanted.from_json(told["wanted"]),
            "files": tuple(told["files"]),
            "askers": tuple(told.get("askers", ())),
        }
        return cls(**{**told, **given})


def advanced(job: Job, event: Mapping[str, Any], now: float) -> Job:
    """The job after its process has told `event` (of `progress.py`). Bytes never go down."""
    match event["event"]:
        case "planned":
            return replace(
                job,
                revision=event["revision"],
                files_total=event["files_total"],
                bytes_total=event["bytes_total"],
            )
        case "progress":
            return _progressed(job, event)
        case "done":
            done = max(job.bytes_total, job.bytes_done)
            message = "is already here" if event["already_there"] else "is here"
            return replace(
                ended(job, "completed", message, now),
                path=event["path"],
                revision=event["revision"] or job.revision,
                bytes_done=done,
                bytes_total=done,
                files_downloaded=job.files_total,
            )
        case "failed":
            return replace(ended(job, "failed", "failed", now), code=event["code"], error=event["message"])
    raise ValueError(f"a downloader does not tell {event['event']!r}")


def ended(job: Job, status: Status, message: str, now: float) -> Job:
    """The job with nothing more to come."""
    return replace(job, status=status, message=message, completed_at=now, current_file=None)


def queued(job: Job, message: str = "waiting for its turn") -> Job:
    """The job, to be run (again)."""
    return replace(job, status="pending", message=message, completed_at=None, code=None, error=None)


def as_json(job: Job, rate: float, now: float) -> dict[str, Any]:
    """What the routes and the events show; `rate` in bytes a second."""
    record = asdict(job)
    wanted = record.pop("wanted")
    del record["askers"]
    left = job.bytes_total - job.bytes_done
    runs = job.status == "downloading"
    until = job.completed_at or now
    return {
        **record,
        "files": list(job.files),
        "destination": wanted["destination"],
        "include": list(wanted["include"]),
        "exclude": list(wanted["exclude"]),
        "quantization": wanted["quantization"],
        "duration_seconds": None if job.started_at is None else max(until - job.started_at, 0.0),
        "bytes_per_second": rate if runs else 0.0,
        "eta_seconds": left / rate if runs and rate > 0 and job.bytes_total else None,
    }


def _progressed(job: Job, event: Mapping[str, Any]) -> Job:
    if event["phase"] != "downloading":
        return replace(job, message=event["message"])
    files = tuple(event["files"])
    going = next((file["path"] for file in files if file["bytes_done"] and not file["finished"]), None)
    return replace(
        job,
        message=event["message"],
        bytes_done=max(job.bytes_done, event["bytes_done"]),
        bytes_total=event["bytes_total"],
        files=files,
        files_downloaded=max(job.files_downloaded, event["files_done"]),
        current_file=going,
    )


@dataclass(frozen=True, slots=True)
class DownloadCounts:
    """All downloads of one server: how many have which status, and since it started what they fetched.

    `left_bytes` are still to come of those that run; `failures` counts by their codes.
    """

    by_status: Mapping[Status, int]
    left_bytes: int
    fetched_bytes: int
    failures: Mapping[str, int]


class Rate:
    """Bytes a second over the latest seconds, from pairs of a time and a count."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, now: float, count: int) -> None:
        """At `now`, `count` bytes were here."""
        recent = [point for point in self._points if point[0] > now - RATE_SECONDS]
        before = [point for point in self._points if point[0] <= now - RATE_SECONDS]
        self._points = [*before[-1:], *recent, (now, count)]

    @property
    def latest(self) -> int:
        """The count that was added last; 0 before the first."""
        return self._points[-1][1] if self._points else 0

    def per_second(self) -> float:
        """0 until two counts are known."""
        if len(self._points) < 2:
            return 0.0
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return max(last - first, 0) / (ended - began) if ended > began else 0.0
