"""Options of the magics and of the command line: the same names, and errors that name the right one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from samovar.errors import BadOption


class HelpShown(Exception):
    """The user asked for help and has got it: there is nothing else to do."""


class OptionParser(argparse.ArgumentParser):
    """An argument parser that never ends the process: BadOption tells an error, in one line."""

    def __init__(self, prog: str, *, add_help: bool = True, description: str | None = None) -> None:
        super().__init__(
            prog,
            add_help=add_help,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Raise HelpShown: argparse calls this after the help."""
        raise HelpShown

    def error(self, message: str) -> NoReturn:
        """Raise BadOption with argparse's `message`, put for people."""
        message = re.sub(r"^argument ([^:]+): expected .*argument$", r"\1 needs a value", message)
        message = re.sub(r"^argument ([^:]+): ", r"\1: ", message)
        raise BadOption(f"{message}. {self._help_hint()}")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options in `arguments`, or BadOption that names the nearest right one."""
        return self.parse_args(arguments)

    def parse_known_args(self, *arguments: Any, **names: Any) -> Any:
        """As argparse does, which calls this for subcommands too, but unknown ones are refused here."""
        options, unknown = super().parse_known_args(*arguments, **names)
        if unknown:
            self._refuse(unknown[0])
        return options, unknown

    def _refuse(self, word: str) -> NoReturn:
        name = word.partition("=")[0]
        if not name.startswith("-"):
            raise BadOption(f"What is {name!r} here? {self._help_hint()}")
        near = nearest(name, self._option_string_actions)
        hint = f"Did you mean {near}?" if near else self._help_hint()
        raise BadOption(f"There is no option {name}. {hint}")

    def _help_hint(self) -> str:
        return f"{self.prog} --help lists the options."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` was probably meant to be."""
    by_name = {name.strip("-"): name for name in known}
    bare = word.strip("-")
    starts = [name for name in by_name if name.startswith(bare)] if bare else []
    near = starts or get_close_matches(bare, by_name, n=1, cutoff=0.6)
    return by_name[near[0]] if near else None


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what and how to generate."""
    parser.add_argument(
        "-m", "--model", metavar="NAME", help="model or alias; the server's default otherwise"
    )
    parser.add_argument("--system", metavar="TEXT", help="system text: how the model is to behave")
    parser.add_argument(
        "--temperature", type=number, metavar="T", help="0 always takes the likeliest token; 1 is the default"
    )
    parser.add_argument(
        "--top-p",
        type=number,
        metavar="P",
        help="draw from the likeliest tokens that together have this share",
    )
    parser.add_argument("--top-k", type=integer, metavar="K", help="draw from the K likeliest tokens; 0: all")
    parser.add_argument(
        "--min-p",
        type=number,
        metavar="P",
        help="draw from tokens at least P times as likely as the likeliest",
    )
    parser.add_argument(
        "--presence-penalty",
        type=number,
        metavar="X",
        help="-2 to 2; above 0 against tokens that came already",
    )
    parser.add_argument(
        "--frequency-penalty", type=number, metavar="X", help="-2 to 2; the same, by how often they came"
    )
    parser.add_argument(
        "--repetition-penalty",
        type=number,
        metavar="X",
        help="above 1 against tokens of prompt and answer; 1: none",
    )
    parser.add_argument("--seed", type=integer, metavar="N", help="the same seed draws the same text again")
    parser.add_argument("--max-tokens", type=integer, metavar="N", help="most tokens to generate")
    parser.add_argument(
        "--stop",
        type=with_escapes,
        action="append",
        default=[],
        metavar="TEXT",
        help=r"end before this text; up to four times; \n and \t are understood",
    )
    parser.add_argument(
        "--ttl",
        type=number,
        metavar="SECONDS",
        help="how long the unused model then stays in memory; 0: for ever",
    )


def number(text: str) -> float:
    """`text` as a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def integer(text: str) -> int:
    """`text` as a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def with_escapes(text: str) -> str:
    r"""`text` with `\n`, `\t` and `\\` put for what they stand for."""
    return re.sub(r"\\([nt\\])", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text)
