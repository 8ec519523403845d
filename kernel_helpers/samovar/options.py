"""Options of the magics and of the command line: the same names, and errors that name the right one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
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


def near_hint(word: str, known: Iterable[str]) -> str:
    """What to say behind an error about `word`, where one of `known` was probably meant."""
    near = nearest(word, known)
    return f" Did you mean {near}?" if near else ""


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


def one_of(known: Sequence[str]) -> Callable[[str], str]:
    """Takes what is in `known`; argparse's own `choices` do not name the nearest."""

    def check(text: str) -> str:
        if text not in known:
            told = f"{text!r} is none of {', '.join(known)}.{near_hint(text, known)}"
            raise argparse.ArgumentTypeError(told.rstrip("."))
        return text

    return check


def token_bias(text: str) -> tuple[str, float]:
    """`TOKEN=BIAS`, the id of a token and what is added to its logit."""
    token, equals, bias = text.partition("=")
    if not (equals and token.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not TOKEN=BIAS, such as 50256=-100")
    return token, number(bias)
