"""`samovar doctor`: whether the set-up works."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

from samovar.doctor import checks, report


def doctor(options: Namespace) -> int:
    """Print what was looked at; 1 when something is to be mended."""
    found = list(checks())
    sys.stdout.write(report(found) + "\n")
    return int(any(check.fix is not None for check in found))


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {"doctor": doctor}
