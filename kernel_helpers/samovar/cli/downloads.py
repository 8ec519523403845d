"""`samovar downloads` and `samovar cancel`: the downloads of the running server."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

from samovar.errors import SamovarError
from samovar.records import Download
from samovar.session import Session, current_session
from samovar.tables import downloads_table


def list_downloads(options: Namespace) -> int:
    """Print the downloads, the latest first."""
    sys.stdout.write(downloads_table(current_session().downloads()) + "\n")
    return 0


def cancel(options: Namespace) -> int:
    """Stop a download; what has come stays."""
    session = current_session()
    job = session.cancel_download(find(session, options.job).job_id)
    sys.stdout.write(
        f"Cancelled the download of {job.url}; what has come is kept. "
        f"Go on with: samovar resume {job.job_id[:8]}\n"
    )
    return 0


def find(session: Session, text: str) -> Download:
    """The download that `text` means: the beginning of its id, or its model, the latest of several."""
    jobs = session.downloads()
    by_id = [job for job in jobs if job.job_id.startswith(text)]
    by_model = [job for job in jobs if job.url == text]
    if len(by_id) > 1:
        raise SamovarError(f"{len(by_id)} downloads begin with {text!r}: write more of the one you mean.")
    found = by_id or by_model[:1]
    if not found:
        raise SamovarError(f"There is no download {text!r}. `samovar downloads` lists those there are.")
    return found[0]


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {"downloads": list_downloads, "cancel": cancel}
