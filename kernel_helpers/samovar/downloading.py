"""Downloads of the server's, begun, found and watched from here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from samovar.display import Line
from samovar.errors import SamovarError
from samovar.options import near_hint
from samovar.progress import duration, pulling, size
from samovar.records import Download
from samovar.session import Session

POLL_SECONDS = 0.5
"""As often as a download tells of itself."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A download that was asked for; `is_ours` is False for one that somebody else had begun."""

    job: Download
    is_ours: bool


def begin(
    session: Session,
    model: str,
    *,
    revision: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    quantization: str | None = None,
) -> Begun:
    """Begin to bring `model` to the server's disk, or join the equal download that runs."""
    known = {job.job_id for job in session.downloads()}
    job = session.download(
        model, revision=revision, include=include, exclude=exclude, quantization=quantization
    )
    return Begun(job, job.job_id not in known)


def followed(session: Session, begun: Begun, line: Line) -> Download:
    """Show on `line` how far it is until it is complete. SamovarError when it fails or is cancelled.

    An interrupt cancels it on the server, if it is ours; what has come stays there.
    """
    job = begun.job
    try:
        while not job.is_over:
            fraction = job.bytes_done / job.bytes_total if job.bytes_total else 0.0
            line.show(describe_download(job), phase=job.status, fraction=fraction)
            time.sleep(POLL_SECONDS)
            job = session.find_download(job.job_id)
    except KeyboardInterrupt:
        if begun.is_ours:
            session.cancel_download(job.job_id)
        raise
    if job.status != "completed":
        raise SamovarError(
            job.error or f"The download of {job.url} was cancelled: samovar resume {job.job_id[:8]}"
        )
    return job


def describe_download(job: Download) -> str:
    """One line on how far it is: a bar, bytes, rate, time left."""
    rate = f"{size(job.bytes_per_second)}/s" if job.bytes_per_second else ""
    left = f"{duration(job.eta_seconds)} left" if job.eta_seconds is not None else ""
    return pulling(job.url, job.bytes_done, job.bytes_total, rate, left or job.message)


def find(session: Session, text: str) -> Download:
    """The download that `text` means: the beginning of its id, or its model, the latest of several."""
    jobs = session.downloads()
    by_id = [job for job in jobs if job.job_id.startswith(text)]
    by_model = [job for job in jobs if job.url == text]
    if len(by_id) > 1:
        raise SamovarError(f"{len(by_id)} downloads begin with {text!r}: write more of the one you mean.")
    found = by_id or by_model[:1]
    if not found:
        hint = near_hint(text, [job.url for job in jobs]) or " `samovar downloads` lists those there are."
        raise SamovarError(f"There is no download {text!r}.{hint}")
    return found[0]
