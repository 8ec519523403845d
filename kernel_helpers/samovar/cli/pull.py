"""`samovar pull` and `samovar resume`: a download of the running server, watched from a terminal.

So it is seen in Jupyter, too, and goes on when the terminal is closed. Without a server the downloader runs
by itself (`local_pull.py`).
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import closing

from samovar.downloading import Begun, begin, find, followed
from samovar.errors import NoServer
from samovar.progress import ProgressLine
from samovar.session import Session, current_session


def pull(options: Namespace) -> int:
    """Bring a model to the server's disk, or to this machine's when no server runs."""
    try:
        session = current_session()
    except NoServer:
        from samovar.cli.local_pull import pull as pull_here

        named = {"include": options.include, "exclude": options.exclude}
        choice = [f"--{name}={glob}" for name, globs in named.items() for glob in globs]
        return pull_here(options.model, choice)
    begun = begin(session, options.model, include=options.include, exclude=options.exclude)
    return _watch(session, begun)


def resume(options: Namespace) -> int:
    """Go on with a download that was cancelled or has failed."""
    session = current_session()
    return _watch(session, Begun(session.resume_download(find(session, options.job).job_id), is_ours=True))


def _watch(session: Session, begun: Begun) -> int:
    """Show the progress to the end. An interrupt cancels the download, if it was begun here."""
    line = ProgressLine()
    try:
        with closing(line):
            job = followed(session, begun, line)
    except KeyboardInterrupt:
        sys.stderr.write(f"{_after_interrupt(begun)}\n")
        raise
    sys.stdout.write(f"{job.url} {job.message}: {job.path}\n")
    return 0


def _after_interrupt(begun: Begun) -> str:
    name = begun.job.job_id[:8]
    if begun.is_ours:
        return f"Cancelled; what has come is kept. Go on with: samovar resume {name}"
    return f"The download was begun elsewhere and goes on. End it with: samovar cancel {name}"


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {"pull": pull, "resume": resume}
