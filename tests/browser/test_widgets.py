"""All widgets in a real Lab while a cell runs, at 800 pixels, in both themes, and as a saved notebook.

Parts are found by their role and name, as a screen reader finds them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import ARTIFACTS, open_notebook
from tests.fakes.fake_hub import FakeHub
from tests.notebooks.jupyter import TOKEN, Jupyter

pytestmark = pytest.mark.browser

HEADERS = {"Authorization": f"token {TOKEN}"}
WIDGETS = {
    "manager": "w.Manager()",
    "picker": "w.Picker()",
    "downloads": "w.Downloads()",
    "chat": 'w.Chat("demo", temperature=0, max_tokens=400)',
    "compare": 'w.Compare(["Name a colour.", "Name a fruit."], settings=["--temperature 0", "--seed 7"])',
    "tokens": 'w.TokenView("The capital of France is Paris, a small green mouse.", "demo")',
}
BUSY = "import time\nwhile True:\n    time.sleep(0.05)"
STORY = re.compile("EditModel.{90}", re.DOTALL)
"""The beginning of a long answer, which comes after the button of its question, in the chat."""

NAMELESS = """box => [...box.querySelectorAll("input, select, textarea, button")]
    .filter(part => !part.innerText && !part.ariaLabel && ![...part.labels].some(label => label.innerText))
    .map(part => part.outerHTML)"""
"""Finds the controls that a screen reader could not tell from each other."""


@pytest.fixture
def narrow(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 800, "height": 2400})
    context.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)  # a busy machine generates slowly
    yield context.new_page()
    expect.set_options(timeout=None)
    context.close()


def write(page: Page, lab: Jupyter, name: str, *sources: str) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    page.request.put(
        f"{lab.url}api/contents/{name}", data={"type": "notebook", "content": notebook}, headers=HEADERS
    )


def choose(page: Page, command: str) -> None:
    """Choose a command from the palette."""
    page.keyboard.press("Control+Shift+c")
    search = page.get_by_role("textbox", name="SEARCH", exact=True)
    search.fill(command)
    page.keyboard.press("Enter")
    expect(search).to_be_hidden()


def press(widget: Locator, name: str) -> None:
    widget.get_by_role("button", name=name, exact=True, disabled=False).click()


def pictures(widgets: dict[str, Locator], theme: str) -> None:
    for name, widget in widgets.items():
        widget.screenshot(path=ARTIFACTS / f"widget-{name}-{theme}.png")


def test_every_widget_works_while_a_cell_runs(narrow: Page, lab: Jupyter, hub: FakeHub) -> None:
    page = narrow
    ARTIFACTS.mkdir(exist_ok=True)
    write(page, lab, "widgets.ipynb", "import samovar.widgets as w", *WIDGETS.values(), BUSY)
    open_notebook(page, lab, "widgets.ipynb")
    page.keyboard.press("Control+b")  # the side bar goes
    choose(page, "Run All Cells")
    cells = page.locator(".jp-CodeCell")
    widgets = {name: cells.nth(1 + at).locator(".samovar") for at, name in enumerate(WIDGETS)}
    busy = cells.last.locator(".jp-InputPrompt")
    expect(busy).to_have_text("[*]:")

    tokens_tell_their_probabilities(widgets["tokens"])  # which loads the model
    the_manager_pins(widgets["manager"])
    a_model_is_found_and_downloaded(widgets["picker"], widgets["downloads"], hub)
    the_chat_streams_and_stops(widgets["chat"])
    widgets["compare"].get_by_role("spinbutton", name="Max tokens").fill("12")
    press(widgets["compare"], "Run")
    expect(widgets["compare"].get_by_role("cell")).to_have_count(4)
    expect(widgets["compare"].get_by_role("button", name="Export", exact=True)).to_be_enabled()

    expect(busy).to_have_text("[*]:")  # all that happened while this cell ran
    for widget in widgets.values():
        assert widget.evaluate("box => box.scrollWidth <= box.clientWidth"), "it is wider than the notebook"
        assert widget.evaluate(NAMELESS) == []
    pictures(widgets, "light")
    choose(page, "Theme: JupyterLab Dark")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)  # it dims the page while the theme changes
    pictures(widgets, "dark")
    choose(page, "Interrupt Kernel")
    expect(busy).not_to_have_text("[*]:")
    a_saved_notebook_shows_pictures(page, lab)


def tokens_tell_their_probabilities(tokens: Locator) -> None:
    expect(tokens).to_contain_text("perplexity")
    small = tokens.locator(".samovar-tokens > span").filter(has_text="small")
    small.hover()
    more = small.evaluate("token => getComputedStyle(token, '::after').content")
    assert "surprising" in more
    assert "Likeliest here:" in more
    tokens.screenshot(path=ARTIFACTS / "widget-tokens-hover.png")
    number = tokens.get_by_role("spinbutton", name="Token")
    number.fill("9")
    number.press("Enter")
    expect(tokens.get_by_role("status")).to_contain_text("Likeliest here:")


def the_manager_pins(manager: Locator) -> None:
    expect(manager).to_contain_text("ready")
    expect(manager.get_by_role("meter")).to_have_attribute("aria-valuenow", re.compile("[1-9]"))
    press(manager, "Pin")
    expect(manager).to_contain_text("never (pinned)")
    press(manager, "Unpin")
    expect(manager).to_contain_text("leaves memory in")


def a_model_is_found_and_downloaded(picker: Locator, downloads: Locator, hub: FakeHub) -> None:
    """It stands still half-way until it is cancelled, and ends when it is resumed."""
    cancelled = threading.Event()
    half = len(hub.files["model.safetensors"]) // 2

    def hold(name: str, position: int) -> None:
        if position >= half:
            cancelled.wait(60)

    hub.on_piece = hold
    search = picker.get_by_role("textbox", name="Search")
    search.fill("tiny")
    press(picker, "Search Hub")
    models = picker.get_by_role("listbox", name="Models")
    models.select_option(label=models.get_by_role("option", name="org/tiny").inner_text())
    press(picker, "Download")
    bar = downloads.get_by_role("progressbar", name="Download of org/tiny")
    expect(bar).to_have_attribute("aria-valuenow", re.compile("^5"))
    downloads.screenshot(path=ARTIFACTS / "widget-downloads-half.png")
    press(downloads, "Cancel")
    expect(downloads).to_contain_text("cancelled")
    cancelled.set()
    press(downloads, "Resume")
    expect(downloads).to_contain_text("completed · 8.0 MB of 8.0 MB")
    search.fill("smol")
    search.press("Enter")
    models.select_option(label=models.get_by_role("option", name="HuggingFaceTB").inner_text())
    expect(picker.get_by_role("status").filter(has_text="it fits")).to_be_visible()


def the_chat_streams_and_stops(chat: Locator) -> None:
    """By keyboard: from the message to the button and on."""
    message = chat.get_by_role("textbox", name="Message")
    message.fill("Tell a long story about a tea pot.")
    message.press("Tab")
    message.page.keyboard.press("Enter")
    expect(chat).to_contain_text(STORY)
    press(chat, "Stop")
    expect(chat).to_contain_text("interrupted")


def a_saved_notebook_shows_pictures(page: Page, lab: Jupyter) -> None:
    """In the Lab, its kernel gone; and as a web page."""
    expect(page.locator(".samovar-picture")).to_have_count(len(WIDGETS))
    expect(page.locator(".samovar-picture:visible")).to_have_count(0)
    page.keyboard.press("Control+s")
    expect(page.locator(".jp-mod-dirty")).to_have_count(0)
    for session in page.request.get(f"{lab.url}api/sessions", headers=HEADERS).json():
        page.request.delete(f"{lab.url}api/sessions/{session['id']}", headers=HEADERS)
    open_notebook(page, lab, "widgets.ipynb")
    all_pictures_are_there(page)
    page.screenshot(path=ARTIFACTS / "widgets-saved.png")
    page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
    page.goto(f"{lab.url}nbconvert/html/widgets.ipynb?token={TOKEN}", wait_until="domcontentloaded")
    all_pictures_are_there(page)
    page.screenshot(path=ARTIFACTS / "widgets-as-a-page.png")


def all_pictures_are_there(page: Page) -> None:
    shown = page.locator(".samovar-picture:visible")
    expect(shown).to_contain_text(
        [re.compile(text) for text in ("ready", "on disk", "completed", "interrupted", "fruit", "perplexity")]
    )
    expect(page.get_by_text("Error displaying widget").locator("visible=true")).to_have_count(0)


def test_notebook_7_shows_widgets_that_work(narrow: Page, lab: Jupyter) -> None:
    """In the theme that the Lab was last left with."""
    page = narrow
    write(page, lab, "seven.ipynb", "import samovar.widgets as w", *WIDGETS.values())
    page.goto(f"{lab.url}notebooks/seven.ipynb?token={TOKEN}")
    expect(page.get_by_title("Kernel Idle").or_(page.locator('[data-status="idle"]')).first).to_be_visible()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    widgets = page.locator(".samovar")
    expect(widgets).to_have_count(len(WIDGETS))
    press(widgets.first, "Load")
    expect(widgets.first).to_contain_text("ready")
    press(widgets.first, "Pin")
    expect(widgets.first).to_contain_text("never (pinned)")
    expect(widgets.last).to_contain_text("perplexity")
    expect(page.locator(".samovar-picture:visible")).to_have_count(0)
    page.screenshot(path=ARTIFACTS / "widgets-notebook-7.png")
