"""What the README promises exists: settings, commands, magics, options, files."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from samovar.cli.parser import make_parser as command_parser
from samovar.magics.generate import GenerateMagics
from samovar.magics.generate_line import make_parser as generate_parser
from samovar.magics.models import ModelMagics
from samovar_server.hub.service import HubService
from samovar_server.sharing import Sharing
from samovar_server.workbench import Workbench

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAPERS = sorted(ROOT.glob("*.md"))
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def settings_table() -> str:
    """The README's rows about settings, as the traits have them."""
    rows = []
    for owner in (Workbench, Sharing, HubService):
        for name, trait in sorted(owner.class_own_traits(config=True).items()):
            default = trait.default_value_repr()
            shown = "" if default == "[]" else f"`{default}`"  # what an empty list means, the help says
            rows.append(f"| `c.{owner.__name__}.{name}` | {shown} | {' '.join(trait.help.split())} |\n")
    return "".join(rows)


def test_settings_are_the_traits() -> None:
    _, header, rest = README.partition("| setting | default | meaning |\n|---|---|---|\n")
    assert header
    assert rest.partition("\n\n")[0] + "\n" == settings_table(), (
        "README.md needs the rows that are expected here"
    )


def test_commands_are_those_of_samovar() -> None:
    table = README.partition("| command | what it does |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `samovar (\w+)", table, flags=re.MULTILINE) == list(command_parser().commands)


def test_magics_and_their_options_exist() -> None:
    magics = {**GenerateMagics.magics["cell"], **GenerateMagics.magics["line"], **ModelMagics.magics["line"]}
    assert set(re.findall(r"%%?(\w+)", README)) == {*magics, "load_ext"}
    lines = re.findall(r"^%%generate(.*)$", README, flags=re.MULTILINE)
    assert lines
    for line in lines:
        generate_parser().parse(shlex.split(line))
    options = {option for action in generate_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"`%?(--[a-z-]+)[ `]", README.partition("## From any")[0])) <= {*options, "--fast"}


@pytest.mark.parametrize("block", [block for block in PYTHON if not block.startswith("%")])
def test_python_is_python(block: str) -> None:
    ast.parse(block)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_linked_files_exist(paper: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", paper.read_text(encoding="utf-8"))
    assert not [link for link in links if not (ROOT / link).exists()]
