"""`samovar clean`: frees disk space that no model needs, after it has been said what would go."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

from samovar.progress import size
from samovar.session import current_session
from samovar.tables import leftovers_table


def clean(options: Namespace) -> int:
    """Show what takes space and is no model, ask, and remove it."""
    session = current_session()
    found = session.clean(older_than_days=options.older_than, dry_run=True)
    if found.in_use:
        sys.stderr.write(f"{len(found.in_use)} more are in use by downloads and stay.\n")
    if not found.removed:
        sys.stdout.write("There is nothing to clean.\n")
        return 0
    sys.stdout.write(leftovers_table(found.removed) + "\n")
    if not options.yes and not _is_agreed(found.freed_bytes):
        sys.stdout.write("Nothing was removed.\n")
        return 0
    freed = session.clean(older_than_days=options.older_than).freed_bytes
    sys.stdout.write(f"{size(freed)} are free again.\n")
    return 0


def _is_agreed(count: int) -> bool:
    sys.stdout.write(f"Remove them and free {size(count)}? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {"clean": clean}
