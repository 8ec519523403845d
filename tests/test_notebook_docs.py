"""docs/notebooks.md says what the magics and functions take; here it is compared with what they do take."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import samovar
from samovar.cli.parser import make_parser as command_parser
from samovar.magics.commands import COMMANDS
from samovar.magics.generate_line import make_parser
from samovar.request import PARAMETERS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")


def options_table(parser: argparse.ArgumentParser) -> str:
    """The options of `parser` as the page has them."""
    rows = []
    for action in parser._actions:
        if action.option_strings and "--help" not in action.option_strings:
            names = ", ".join(f"`{name}`" for name in action.option_strings)
            takes = "" if action.nargs == 0 else f" {action.metavar}"
            rows.append(f"| {names}{takes} | {action.help} |\n")
    return "".join(rows)


def commands_table() -> str:
    """The commands of `%samovar` as the page has them."""
    return "".join(f"| `%samovar {command.usage}` | {command.help} |\n" for command in COMMANDS.values())


def rows_below(header: str) -> str:
    _, found, rest = PAGE.partition(f"{header}\n|---|---|\n")
    assert found, header
    return rest.partition("\n\n")[0] + "\n"


def test_the_options_of_generate() -> None:
    assert rows_below("| option | meaning |") == options_table(make_parser())


def test_the_commands_of_samovar() -> None:
    assert rows_below("| command | meaning |") == commands_table()


def test_the_names_in_python() -> None:
    named = set(re.findall(r"samovar\.((?:aio\.)?\w+)\(", PAGE))
    for name in named - {"widgets"}:
        owner = samovar.aio if name.startswith("aio.") else samovar
        assert callable(getattr(owner, name.removeprefix("aio."))), name
    assert {"generate", "chat", "stream", "load", "use", "map", "client", "async_client"} <= named
    parameters = set(re.findall(r"`(\w+)`", PAGE.partition("Their parameters are")[2].partition("\n\n")[0]))
    assert parameters == PARAMETERS


def test_the_lines_can_be_written() -> None:
    for line in re.findall(r"^%%generate(.*)$", PAGE, flags=re.MULTILINE):
        make_parser().parse(shlex.split(line))
    for line in re.findall(r"^%samovar (.+)$", PAGE, flags=re.MULTILINE):
        name, *rest = shlex.split(line)
        COMMANDS[name].parser().parse(rest)
    for line in re.findall(r"`samovar (\w+)", PAGE):
        assert line in command_parser().commands
