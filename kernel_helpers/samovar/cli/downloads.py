"""`samovar downloads` and `samovar cancel`: the downloads of the running server."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

from samovar.downloading import find
from samovar.session import current_session
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


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {"downloads": list_downloads, "cancel": cancel}
