"""What can be written behind `samovar`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from samovar.errors import BadOption
from samovar.generation_options import add_generation_options
from samovar.options import OptionParser, nearest, number

DESCRIPTION = """\
Language models kept hot for every notebook, from a terminal.

Commands work with the samovar server that is running; SAMOVAR_URL and SAMOVAR_TOKEN name another."""


class CommandParser(OptionParser):
    """The parser of the whole command line."""

    commands: Sequence[str] = ()

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The command and its options, or BadOption that names the nearest right one."""
        first = next(iter(arguments), "-")
        if not first.startswith("-") and first not in self.commands:
            near = nearest(first, self.commands)
            hint = f"Did you mean {near}?" if near else f"There are: {', '.join(self.commands)}."
            raise BadOption(f"There is no command {first!r}. {hint}")
        if first in LAUNCHERS:  # everything behind it is the server's
            return argparse.Namespace(command=first, jupyter=list(arguments[1:]), version=False)
        return super().parse(arguments)


LAUNCHERS = {
    "serve": "start a server without the Lab; options are Jupyter's",
    "lab": "start JupyterLab; options are Jupyter's",
    "hub": "the service of a JupyterHub, which starts it",
}


def make_parser() -> CommandParser:
    """The parser of `samovar`."""
    parser = CommandParser("samovar", description=DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="show the version")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", parser_class=OptionParser
    )

    pull = commands.add_parser("pull", help="bring a model to this machine")
    pull.add_argument(
        "model", metavar="MODEL", help="demo, org/name, org/name@revision or org/name:Q4_K_M (of a GGUF repo)"
    )
    pull.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="bring only files whose paths match"
    )
    pull.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out files whose paths match"
    )

    commands.add_parser("downloads", help="list the downloads and how far they are")
    for name, what in (("cancel", "stop a download"), ("resume", "go on with a download")):
        command = commands.add_parser(name, help=what)
        command.add_argument("job", metavar="JOB", help="its id, or the beginning of it, or its model")

    commands.add_parser("list", help="list the models on this machine")
    clean = commands.add_parser("clean", help="free disk space that no model needs")
    clean.add_argument("--yes", action="store_true", help="do not ask")
    clean.add_argument(
        "--older-than", type=number, default=0.0, metavar="DAYS", help="only what nobody has written to since"
    )

    commands.add_parser("ps", help="list the models in memory")

    run = commands.add_parser("run", help="generate text")
    run.add_argument("prompt", nargs="*", metavar="PROMPT", help="the prompt; without one, standard input is")
    add_generation_options(run)

    stop = commands.add_parser("stop", help="free the memory of a model")
    stop.add_argument("model", nargs="?", metavar="MODEL")
    stop.add_argument("--all", action="store_true", help="of all models")
    stop.add_argument(
        "--now", action="store_true", help="end its running requests instead of waiting for them"
    )

    commands.add_parser("doctor", help="look whether the set-up works, and say what to do where it does not")

    for name, what in LAUNCHERS.items():
        commands.add_parser(name, help=what, add_help=False)

    parser.commands = tuple(commands.choices)
    return parser
