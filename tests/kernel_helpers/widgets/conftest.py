"""A fake server with all that widgets ask for, and a way to wait for what a widget shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
import pytest
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from samovar.widgets.panel import Panel
from tests.fakes.fake_server import SECONDS

WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass
class Screen:
    """What a notebook's cells would show: outputs in order, and what an output with an id shows now."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    by_id: dict[str, dict[str, Any]] = field(default_factory=dict)

    def pictures(self) -> list[str]:
        return [bundle["text/html"] for bundle in self.by_id.values()]


@pytest.fixture
def screen(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Screen:
    shown = Screen()

    def publish(
        self: DisplayPublisher,
        data: dict[str, Any],
        metadata: object = None,
        *,
        transient: dict[str, str] | None = None,
        update: bool = False,
        **more: Any,
    ) -> None:
        if not update:
            shown.outputs.append(data)
        if transient and "display_id" in transient:
            assert (transient["display_id"] in shown.by_id) == update
            shown.by_id[transient["display_id"]] = data

    monkeypatch.setattr(DisplayPublisher, "publish", publish)
    return shown


Watch = Callable[[Panel, Callable[[], bool]], None]


@pytest.fixture
def until() -> Watch:
    """Waits until the widget shows what is expected, woken by each change of it."""

    def wait(panel: Panel, shows: Callable[[], bool]) -> None:
        changed = threading.Event()
        refresh = panel.refresh

        def refresh_and_tell() -> None:
            refresh()
            changed.set()

        panel.refresh = refresh_and_tell  # type: ignore[method-assign]
        deadline = time.monotonic() + SECONDS
        try:
            while True:
                changed.clear()
                with panel.guard:
                    if shows():
                        refresh()  # a state is there before its thread has shown it
                        return
                assert changed.wait(deadline - time.monotonic()), f"it shows: {text_of(panel)}"
        finally:
            panel.refresh = refresh  # type: ignore[method-assign]

    return wait


def text_of(panel: Panel) -> str:
    """All HTML that a widget shows."""
    return "\n".join(part.value for part in parts(panel) if isinstance(part, ipywidgets.HTML))


def parts(box: ipywidgets.Box) -> list[ipywidgets.Widget]:
    found: list[ipywidgets.Widget] = []
    for part in box.children:
        found += [part, *parts(part)] if isinstance(part, ipywidgets.Box) else [part]
    return found


def press(panel: Panel, description: str) -> None:
    """Click the button that says `description`; it must be there once, and not be disabled."""
    (button,) = [
        part
        for part in parts(panel)
        if isinstance(part, ipywidgets.Button) and part.description == description
    ]
    assert not button.disabled, description
    button.click()
