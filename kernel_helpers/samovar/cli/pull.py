"""`samovar pull` and `samovar resume`: a download of the running server, watched from a terminal.

So it is seen in Jupyter, too, and goes on when the terminal is closed. Without a server the downloader runs
by itself (`local_pull.py`).
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping

from samovar.cli.downloads import find
from samovar.errors import NoServer, SamovarError
from samovar.progress import ProgressLine, duration, pulling, size
from samovar.records import Download
from samovar.session import Session, current_session

POLL_SECONDS = 0.5
"""As often as a download tells of itself."""


def pull(options: Namespace) -> int:
    """Bring a model to the server's disk, or to this machine's when no server runs."""
    try:
        session = current_session()
    except NoServer:
        from samovar.cli.local_pull import pull as pull_here

        named = {"include": options.include, "exclude": options.exclude}
        choice = [f"--{name}={glob}" for name, globs in named.items() for glob in globs]
        return pull_here(options.model, choice)
    known = {job.job_id for job in session.downloads()}
    job = session.download(options.model, include=options.include, exclude=options.exclude)
    return _watch(session, job, is_ours=job.job_id not in known)


def resume(options: Namespace) -> int:
    """Go on with a download that was cancelled or has failed."""
    session = current_session()
    job = session.resume_download(find(session, options.job).job_id)
    return _watch(session, job, is_ours=True)


def _watch(session: Session, job: Download, *, is_ours: bool) -> int:
    """Show the progress to the end. An interrupt cancels the download, if it was begun here."""
    line = ProgressLine()
    try:
        while not job.is_over:
            line.show(_words(job), phase=job.status, fraction=_fraction(job))
            time.sleep(POLL_SECONDS)
            job = session.find_download(job.job_id)
    except KeyboardInterrupt:
        line.clear()
        if is_ours:
            session.cancel_download(job.job_id)
        sys.stderr.write(f"{_after_interrupt(job, is_ours=is_ours)}\n")
        raise
    finally:
        line.clear()
    if job.status != "completed":
        raise SamovarError(
            job.error or f"The download of {job.url} was cancelled: samovar resume {job.job_id[:8]}"
        )
    sys.stdout.write(f"{job.url} {job.message}: {job.path}\n")
    return 0


def _after_interrupt(job: Download, *, is_ours: bool) -> str:
    if is_ours:
        return f"Cancelled; what has come is kept. Go on with: samovar resume {job.job_id[:8]}"
    return f"The download was begun elsewhere and goes on. End it with: samovar cancel {job.job_id[:8]}"


def _fraction(job: Download) -> float:
    return job.bytes_done / job.bytes_total if job.bytes_total else 0.0


def _words(job: Download) -> str:
    rate = f"{size(job.bytes_per_second)}/s" if job.bytes_per_second else ""
    left = f"{duration(job.eta_seconds)} left" if job.eta_seconds is not None else ""
    return pulling(job.url, job.bytes_done, job.bytes_total, rate, left or job.message)


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {"pull": pull, "resume": resume}
