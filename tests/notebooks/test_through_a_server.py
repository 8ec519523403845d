"""From a cell through a Jupyter server and back, with a worker that is a fake."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tests.fakes.models import FAKE_WORKER, FakeScript, write_model
from tests.notebooks.jupyter import Jupyter, Kernel, failed, jupyter, text_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    folder = tmp_path_factory.mktemp("jupyter")
    write_model(folder / "models", "echo")
    write_model(folder / "models", "slow", FakeScript(reply=["one ", "two ", "three "], hang_after_tokens=2))
    write_model(
        folder / "models", "frail", FakeScript(reply=["one ", "two ", "three "], crash_after_tokens=2)
    )
    settings = {
        "Workbench": {
            "model_folders": [str(folder / "models")],
            "worker_command": FAKE_WORKER,
            "default_model": "echo",
        }
    }
    (folder / "config").mkdir()
    (folder / "config" / "jupyter_server_config.json").write_text(json.dumps(settings))
    with jupyter(folder) as server:
        yield server


async def run(kernel: Kernel, code: str) -> NotebookNode:
    cell = new_code_cell(code)
    await kernel.run(cell)
    return cell


def cells(server: Jupyter, *sources: str) -> list[NotebookNode]:
    """Run cells in a new kernel."""

    async def go() -> list[NotebookNode]:
        async with server.kernel() as kernel:
            return [await run(kernel, source) for source in ("%load_ext samovar", *sources)][1:]

    return asyncio.run(go())


def test_a_kernel_finds_its_server_and_a_cell_streams(server: Jupyter) -> None:
    answer, kept = cells(
        server, "%%generate --chat x\nhello there", "_.model, _.text.split(), _.finish_reason"
    )
    assert text_of(answer).startswith("hello there")
    assert text_of(kept) == "('echo', ['hello', 'there'], 'stop')"


def test_the_openai_client_is_connected(server: Jupyter) -> None:
    code = """
import samovar
with samovar.client() as client:
    answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi you"}])
print(answer.choices[0].message.content)"""
    (cell,) = cells(server, code)
    assert text_of(cell).split() == ["hi", "you"]


def test_the_interrupt_button_frees_the_slot(server: Jupyter) -> None:
    async def go() -> list[NotebookNode]:
        async with server.kernel() as kernel:
            await run(kernel, "%load_ext samovar")
            interrupted = asyncio.Event()

            async def press(cell: NotebookNode) -> None:
                if "one two" in text_of(cell) and not interrupted.is_set():
                    interrupted.set()
                    await kernel.interrupt()

            cell = new_code_cell("%%generate -m slow\nx")
            await kernel.run(cell, press)
            # This waits until the model has nothing to do any more, so it would hang if it still had.
            return [
                cell,
                await run(kernel, "%samovar unload slow"),
                await run(kernel, "_.text, _.finish_reason"),
            ]

    cell, unloaded, kept = asyncio.run(go())
    assert failed(cell)  # so that "Run All" stops here
    assert "interrupted" in text_of(cell)
    assert text_of(cell).endswith("Interrupted. What had come is in _.")
    assert text_of(unloaded) == "Unloaded slow\n"
    assert text_of(kept) == "('one two ', 'interrupted')"


def test_a_crash_is_told_in_one_line_and_the_text_is_kept(server: Jupyter) -> None:
    crashed, kept = cells(server, "%%generate -m frail\nx", "_.text, _.finish_reason")
    assert failed(crashed)
    text, summary, error = text_of(crashed).splitlines()
    assert text == "one two "
    assert "broken off" in summary
    assert error.startswith("ServerError: ")
    assert "frail" in error
    assert text_of(kept) == "('one two ', 'error')"


def test_a_model_that_is_not_there(server: Jupyter) -> None:
    (cell,) = cells(server, "%%generate -m ecko\nx")
    assert "samovar pull ecko" in text_of(cell)
    assert text_of(cell).endswith("Did you mean echo?")
