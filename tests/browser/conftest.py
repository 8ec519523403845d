"""JupyterLab in a real Chromium, on a server with the real model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.fakes.fake_hub import FakeHub, serving
from tests.notebooks.jupyter import TOKEN, Jupyter, jupyter

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "test-artifacts"
"""Screenshots, kept for people to look at."""

OPTIONS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """Playwright's own event loop runs on this thread; pytest-jupyter's would be in its way."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """No server runs in this process."""


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def hub() -> Iterator[FakeHub]:
    """The Hugging Face Hub of the Lab's server: one small model."""
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": bytes(8_000_000)}
    weights = {"total": 2_000_000, "parameters": {"F32": 2_000_000}}
    found: list[dict[str, object]] = [{"id": "org/tiny", "gated": False, "safetensors": weights}]
    with serving(FakeHub(files=files, found=found)) as fake:
        yield fake


@pytest.fixture(scope="session")
def lab(demo_model: Path, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A server with the Lab and Notebook 7; the notebooks are copies."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_ENDPOINT", hub.url)
        environment.setenv("HF_HUB_CACHE", str(folder / "hub"))
        environment.delenv("HF_HUB_OFFLINE", raising=False)
        with jupyter(
            folder,
            f"--Workbench.model_folders={demo_model.parent}",
            "--ServerApp.jpserver_extensions=jupyterlab=True",
            "--ServerApp.jpserver_extensions=notebook=True",
        ) as server:
            yield server


@pytest.fixture
def page(browser: Browser, lab: Jupyter, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of its own, with a screenshot of its end whatever happens."""
    context = browser.new_context(viewport={"width": 1200, "height": 2600})
    context.set_default_timeout(60_000)
    page = context.new_page()
    yield page
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{request.node.name}.png")
    context.close()


def open_notebook(page: Page, lab: Jupyter, path: str) -> None:
    """Open a notebook alone in the Lab, and wait for its kernel."""
    page.goto(f"{lab.url}lab/tree/{path}?reset&token={TOKEN}")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
