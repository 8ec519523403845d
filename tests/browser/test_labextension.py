"""What samovar adds to the Lab itself: launcher card, status item, documentation."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ARTIFACTS
from tests.notebooks.jupyter import TOKEN, Jupyter

pytestmark = pytest.mark.browser


def test_card_status_and_documentation(page: Page, lab: Jupyter) -> None:
    page.set_viewport_size({"width": 1200, "height": 800})
    page.goto(f"{lab.url}lab?reset&token={TOKEN}")
    ARTIFACTS.mkdir(exist_ok=True)
    status = page.locator("#jp-main-statusbar").get_by_text("samovar: ")
    expect(status).to_be_visible()
    page.locator(".jp-LauncherCard").filter(has_text="samovar").click()
    manager = page.locator(".samovar").first
    manager.get_by_role("button", name="Load", exact=True).click()
    expect(manager).to_contain_text("ready", timeout=60_000)
    expect(status).to_contain_text("samovar: SmolLM2-135M-Instruct", timeout=60_000)
    page.screenshot(path=ARTIFACTS / "labextension-card.png")
    page.get_by_role("menuitem", name="Help", exact=True).click()
    page.get_by_role("menuitem", name="samovar Documentation", exact=True).click()
    expect(page.get_by_role("heading", name="In a notebook", exact=True)).to_be_visible()
    page.screenshot(path=ARTIFACTS / "labextension-help.png")
    page.get_by_role("link", name="docs/widgets.md").click()
    expect(page.get_by_role("heading", name="Compare models and parameters")).to_be_visible()
