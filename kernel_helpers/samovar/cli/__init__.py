"""The command `samovar`: models from a terminal, through the server that is running.

Exit codes: 0 done, 1 failed (why is on the error stream), 2 wrong usage, 130 interrupted, 141 nobody
reads the output any more. Only what a command needs is imported, so that `--help` is there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from samovar.cli.parser import make_parser
from samovar.errors import BadOption, SamovarError
from samovar.options import HelpShown

FAILED, USAGE, INTERRUPTED, NO_READER = 1, 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line in `arguments` (None: that of this process) and return its exit code."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except HelpShown:
        return 0
    except BrokenPipeError:
        # As `| head` leaves: what Python still flushes at its end must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except KeyboardInterrupt:
        return INTERRUPTED
    except SamovarError as error:
        sys.stderr.write(f"samovar: {error}\n")
        return USAGE if isinstance(error, BadOption) else FAILED
    return code


def _run(arguments: Sequence[str]) -> int:
    parser = make_parser()
    options = parser.parse(arguments)
    if options.version:
        from importlib.metadata import version

        sys.stdout.write(f"samovar {version('samovar')}\n")
        return 0
    if options.command is None:
        sys.stdout.write(parser.format_help())
        return 0
    match options.command:
        case "pull" | "resume":
            from samovar.cli.pull import COMMANDS
        case "downloads" | "cancel":
            from samovar.cli.downloads import COMMANDS
        case "clean":
            from samovar.cli.clean import COMMANDS
        case "doctor":
            from samovar.cli.doctor import COMMANDS
        case "run":
            from samovar.cli.run import COMMANDS
        case "serve" | "lab" | "hub":
            from samovar.cli.launch import COMMANDS
        case _:
            from samovar.cli.models import COMMANDS
    return COMMANDS[options.command](options)
