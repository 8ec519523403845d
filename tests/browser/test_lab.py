"""What a person sees in JupyterLab: the quickstart runs clean, tokens arrive one by one, ■ stops them."""

from __future__ import annotations

import time

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ROOT, open_notebook
from tests.notebooks.jupyter import Jupyter

pytestmark = pytest.mark.browser

STORY = "Tell a very long story about tea."
STORY_SECONDS = 120.0
"""More than a load and some sentences take on a busy machine; greedy, the story is long for certain."""


def test_the_quickstart_runs_clean_from_top_to_bottom(page: Page, lab: Jupyter) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    open_notebook(page, lab, "notebooks/quickstart.ipynb")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-CodeCell .jp-OutputArea").last
    expect(last).to_contain_text("ready", timeout=240_000)
    expect(
        page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')
    ).to_have_count(0)
    expect(
        page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]')
    ).to_have_count(0)
    assert page.locator(".jp-CodeCell").count() == code_cells


def test_tokens_arrive_one_by_one_and_the_square_stops_them(page: Page, lab: Jupyter) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("%load_ext samovar"),
            nbformat.v4.new_code_cell(f"%%generate --temperature 0 --max-tokens 2000\n{STORY}"),
            nbformat.v4.new_code_cell("print(_.finish_reason, len(_.text) > 40)"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    page.request.put(
        f"{lab.url}api/contents/story.ipynb",
        data={"type": "notebook", "content": notebook},
        headers={"Authorization": "token for-this-test"},
    )
    open_notebook(page, lab, "story.ipynb")
    cells = page.locator(".jp-CodeCell")
    cells.first.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    output = cells.nth(1).locator(".jp-OutputArea")
    lengths: set[int] = set()
    # The story grows under the eyes of its reader; what is shorter may still be the load's progress.
    deadline = time.monotonic() + STORY_SECONDS
    while len({length for length in lengths if length > 200}) < 8:
        assert time.monotonic() < deadline, f"the text did not grow: {output.inner_text()}"
        lengths.add(len(output.inner_text()))
        page.wait_for_timeout(20)
    page.locator('[data-command="notebook:interrupt-kernel"], [title^="Interrupt the kernel"]').first.click()
    expect(output).to_contain_text("interrupted")
    cells.nth(2).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    expect(cells.nth(2).locator(".jp-OutputArea")).to_contain_text("interrupted True")
