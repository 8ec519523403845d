"""The tutorial of the widgets, as it is in git, on the real model; what they do is in tests/browser."""

import asyncio
from pathlib import Path

import pytest
from nbformat import NotebookNode

from tests.notebooks.jupyter import Jupyter, run_all, text_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

WIDGETS = Path(__file__).parents[2] / "notebooks" / "widgets.ipynb"


def test_every_cell_runs_and_leaves_its_picture(demo_server: Jupyter) -> None:
    cells = asyncio.run(run_all(demo_server, WIDGETS))
    pictures = [picture for cell in cells for picture in pictures_of(cell)]
    titles = ["Models in memory", "Choose a model", "Downloads", "Chat", "Compare", "Tokens"]
    assert len(pictures) == len(titles)
    for title, picture in zip(titles, pictures, strict=True):
        assert title in picture
    (compared,) = [cell for cell in cells if cell.source.startswith("compare.run()")]
    assert "'state': 'done'" in text_of(compared)


def pictures_of(cell: NotebookNode) -> list[str]:
    shown = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
    return [html for html in shown if "samovar-picture" in html]
