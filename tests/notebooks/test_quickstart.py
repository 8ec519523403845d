"""The quickstart, as it is in git, on the real model."""

import asyncio
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.notebooks.jupyter import failed, jupyter, text_of

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def cells(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[NotebookNode]:
    """The code cells after a run through a real server, kernel and worker."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    async def run_all() -> None:
        async with server.kernel() as kernel:
            for cell in code:
                await kernel.run(cell)
                assert not failed(cell), text_of(cell)

    folder = tmp_path_factory.mktemp("quickstart")
    with jupyter(folder, f"--Workbench.model_folders={demo_model.parent}") as server:
        asyncio.run(run_all())
    return code


@pytest.mark.real
def test_every_generation_answers(cells: list[NotebookNode]) -> None:
    generations = [cell for cell in cells if cell.source.startswith("%%generate")]
    assert len(generations) == 4
    for cell in generations:
        answer, summary = cell.outputs
        assert answer.data["text/plain"].strip()
        assert re.search(r"\d+ tokens · [\d.]+ tok/s · first token [\d.]+ s", summary.data["text/plain"])


@pytest.mark.real
def test_the_second_question_knows_the_first(cells: list[NotebookNode]) -> None:
    (second,) = [cell for cell in cells if "What is my name" in cell.source]
    assert "Kyoto" in text_of(second)


@pytest.mark.real
def test_openais_client_streams(cells: list[NotebookNode]) -> None:
    (client,) = [cell for cell in cells if "samovar.client()" in cell.source]
    assert text_of(client).strip()


@pytest.mark.real
def test_one_copy_served_them_all(cells: list[NotebookNode]) -> None:
    lines = text_of(cells[-1]).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("HuggingFaceTB/SmolLM2-135M-Instruct  ready")
