"""The tutorial of the widgets, as it is in git, on the real model; what they do is in tests/browser."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.notebooks.jupyter import Jupyter, failed, jupyter, text_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

WIDGETS = Path(__file__).parents[2] / "notebooks" / "widgets.ipynb"


@pytest.fixture(scope="module")
def server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    with jupyter(
        tmp_path_factory.mktemp("widgets"), f"--Workbench.model_folders={demo_model.parent}"
    ) as server:
        yield server


def test_every_cell_runs_and_leaves_its_picture(server: Jupyter) -> None:
    cells = [cell for cell in nbformat.read(WIDGETS, as_version=4).cells if cell.cell_type == "code"]

    async def run_all() -> None:
        async with server.kernel() as kernel:
            for cell in cells:
                await kernel.run(cell)
                assert not failed(cell), text_of(cell)

    asyncio.run(run_all())
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
