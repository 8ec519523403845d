"""The tutorials, as they are in git, on the real model."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.notebooks.jupyter import Jupyter, run_all, text_of

# Where other work takes the processor, the first of them, which waits for the load, takes minutes.
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
DEMO = r"HuggingFaceTB/SmolLM2-135M-Instruct"

# For each notebook: the beginning of a cell's source, and what is to be seen below it. They run one after the
# other on one server, so that the model is loaded once: the one that unloads it comes last.
SEEN = {
    "compare-models": [
        ("%%generate --model demo --model", r"(?s)demo\n.+\d+ tok/s.*\ndemo\n.+\d+ tok/s.*2 answers"),
        ("both.dataframe", "completion_tokens"),
        ("%%generate --model demo --n 3", r"(?s)\[1\].*\[2\].*\[3\]"),
        ("again", "^True$"),
    ],
    "structured-output": [
        ("%%generate", r'\{\s*"mood": ?"(un)?happy",\s*"stars": ?[1-5]\s*\}'),
        ("_.parsed", r"^Review\(mood='(un)?happy', stars=[1-5]\)$"),
        ("import pandas", r"(?s)place.*text.*answer.*mood.*stars.*error.*\n0.*\n1.*\n2.*\n3"),
        ("rated.groupby", "count"),
        ("rows", r"'item': 'green',\s+'answer': ['\"]"),
    ],
    "tokens-and-probabilities": [
        ("%%generate", "12 tokens"),
        ("import math", r"(?s)token.*probability.*likeliest.*\n0 .*\d+%"),
        ("from samovar.session", r"^ +[\d.]+  The cat sat on the mat\.\n +[\d.]+  The mat"),
        ("client_ids", r"^\[\d+"),
        ("import samovar", r"^['\"](?!.*Paris)"),
        ("from samovar.widgets", "TokenView"),
    ],
    "any-openai-tool": [
        ("import samovar", r"\w"),
        ("answer = client", r"\w"),
        ("import asyncio", r"(?s)^\[.+,\s.+,\s.+\]$"),
        ("async for", r"\w"),
        ("import openai", DEMO),
        ("!samovar run", r"\w"),
    ],
    "manage-models": [
        ("%samovar list", DEMO),
        ("from samovar.records", r"none +\d+ MB of [\d,]+ MB: fits = True\nint8"),
        ("%samovar ps", rf"{DEMO} +ready .*in \d+ s"),
        ("%samovar use", "Using demo."),
        ("%%generate", r"\d+ tokens"),
        ("%samovar unload", f"Unloaded {DEMO}"),
        ("%samovar doctor", r"✓ token +accepted\n✓ extension +that server has samovar in it\n✓ versions"),
    ],
}


def test_every_tutorial_is_run() -> None:
    elsewhere = {"quickstart", "widgets"}  # with tests of their own
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} <= SEEN.keys() | elsewhere


@pytest.mark.parametrize("name", SEEN)
def test_tutorial(demo_server: Jupyter, name: str) -> None:
    cells = asyncio.run(run_all(demo_server, NOTEBOOKS / f"{name}.ipynb"))
    for beginning, expected in SEEN[name]:
        shown = [text_of(cell) for cell in cells if cell.source.startswith(beginning)]
        assert shown, f"no cell begins with {beginning}"
        assert any(re.search(expected, text) for text in shown), shown
