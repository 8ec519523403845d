"""The quickstart, as it is in git, on the real model."""

import asyncio
import re
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tests.notebooks.jupyter import Jupyter, failed, run_all, text_of

# Where other work takes the processor, the first test, for which the notebook runs, takes minutes.
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def cells(demo_server: Jupyter) -> list[NotebookNode]:
    """The code cells after a run through a real server, kernel and worker."""
    return asyncio.run(run_all(demo_server, QUICKSTART))


def test_every_generation_answers(cells: list[NotebookNode]) -> None:
    generations = [cell for cell in cells if cell.source.startswith("%%generate")]
    assert len(generations) == 4
    for cell in generations:
        answer, summary = cell.outputs
        assert answer.data["text/plain"].strip()
        assert re.search(r"\d+ tokens · [\d.]+ tok/s · first token [\d.]+ s", summary.data["text/plain"])


def test_the_second_question_knows_the_first(cells: list[NotebookNode]) -> None:
    (second,) = [cell for cell in cells if "What is my name" in cell.source]
    assert "Kyoto" in text_of(second)


def test_openais_client_streams(cells: list[NotebookNode]) -> None:
    (client,) = [cell for cell in cells if "samovar.client()" in cell.source]
    assert text_of(client).strip()


def test_one_copy_served_them_all(cells: list[NotebookNode]) -> None:
    lines = text_of(cells[-1]).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("HuggingFaceTB/SmolLM2-135M-Instruct  ready")


def test_an_interrupted_cell_leaves_the_model_free(demo_server: Jupyter) -> None:
    async def go() -> tuple[str, str, str]:
        async with demo_server.kernel() as kernel:
            pressed = asyncio.Event()

            async def press(cell: NotebookNode) -> None:
                # More words than any notice of a load has: these are generated ones.
                if len(text_of(cell).split()) > 20 and not pressed.is_set():
                    pressed.set()
                    await kernel.interrupt()

            cells = [
                new_code_cell(source)
                for source in (
                    "%load_ext samovar",
                    # Nothing but the end of the context window would end this one.
                    "%%generate --model demo --temperature 2 --out told\nTell an endless story.",
                    "print(told.finish_reason, len(told.text.split()) > 3)",
                    # Waits until the running requests have ended.
                    "%samovar unload demo",
                )
            ]
            for cell in cells:
                generates = cell.source.startswith("%%generate")
                await kernel.run(cell, press if generates else None)
                assert failed(cell) == generates, text_of(cell)  # the interrupt, and nothing else
            return text_of(cells[1]), text_of(cells[2]), text_of(cells[3])

    generated, kept, unloaded = asyncio.run(go())
    assert "interrupted · SmolLM2-135M-Instruct" in generated
    assert generated.endswith("Interrupted. What had come is in told.")
    assert kept == "interrupted True\n"
    assert unloaded == "Unloaded HuggingFaceTB/SmolLM2-135M-Instruct\n"
