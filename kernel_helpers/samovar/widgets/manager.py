"""The manager: what is loaded and what it takes, live, and changing that."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets

from samovar.defaults import model_in_use
from samovar.records import OPEN, Event
from samovar.session import Session, current_session
from samovar.widgets import html
from samovar.widgets.memory import MemoryState, ModelRow
from samovar.widgets.panel import Panel
from samovar.widgets.parts import FIRST, Rows, button, growing, row

UNLOAD = {
    "starting": ("Stop", "Stop loading {}"),
    "ready": ("Unload", "Take {} out of memory once its requests have ended"),
    "draining": ("End now", "Take {} out of memory at once, and end its requests"),
    "failed": ("Dismiss", "Take {} off this list"),
}
"""What the second button of a model says and does, by the model's state."""


class Manager(Panel):
    """The models in memory: load, pin and unload them; memory of each device, requests, time to live.

        samovar.widgets.Manager()

    It follows the server while cells run, and through restarts of the server. `close` ends it.
    """

    title = "Models in memory"
    listens = True

    def __init__(self, connect: Callable[[], Session] = current_session) -> None:
        self.state = MemoryState()
        self.devices = ipywidgets.HTML()
        self.rows = Rows(lambda key: _Row(self, key))
        self.name = growing(
            ipywidgets.Combobox(
                description="Model",
                placeholder="name or alias; empty: the default",
                continuous_update=False,
                style=FIRST,
            )
        )
        self.load_button = button("Load", "Bring this model into memory", self._load)
        super().__init__([self.devices, self.rows.box, row(self.name, self.load_button)], connect)

    def heard(self, session: Session, event: Event) -> None:
        """Take in an event; ask for everything where some may have been missed."""
        if event.kind not in {OPEN, "missed"}:
            with self.guard:
                self.state.apply(event)
            return
        models, devices = session.loaded(), session.memory()
        names = [model.id for model in session.models()]
        with self.guard:
            self.state.reset(models, devices)
            self.name.options = names

    def beat(self) -> None:
        """Ask how much memory there is when models have come or gone."""
        with self.guard:
            wanted = self.state.devices_changed
        if wanted:
            devices = self._connect().memory()
            with self.guard:
                self.state.set_devices(devices)

    def refresh(self) -> None:
        """Show devices and models."""
        self.devices.value = self._devices()
        self.rows.show({model.key: model for model in self.state.models()})

    def picture(self) -> str:
        """Devices and models as they are."""
        return self._devices() + "".join(_describe(model, live=False) for model in self.state.models())

    def _devices(self) -> str:
        shown = "".join(
            html.line(device.words) + html.bar(device.fraction, device.words, role="meter")
            for device in self.state.devices()
        )
        return shown if self.state.models() else shown + html.line("No model is in memory.", dim=True)

    def _load(self) -> None:
        name = self.name.value.strip() or model_in_use()
        self.work(lambda session: session.load(name))

    def pin(self, key: str) -> None:
        """Pin the model of a row, or end that."""
        with self.guard:
            model = self.state.model(key)
        if model is not None:
            self.work(lambda session: session.load(model.model, pin=not model.pinned))

    def unload(self, key: str) -> None:
        """Take the model of a row out of memory once its requests have ended; if it waits for them, now."""
        with self.guard:
            model = self.state.model(key)
        if model is not None:
            self.work(lambda session: session.unload(model.model, now=model.state == "draining"))


class _Row:
    """One model: what it is and does, and its buttons."""

    def __init__(self, manager: Manager, key: str) -> None:
        self._text = growing(ipywidgets.HTML())
        self._pin = button("Pin", "", lambda: manager.pin(key))
        self._unload = button("Unload", "", lambda: manager.unload(key))
        self.box = row(self._text, self._pin, self._unload)

    def parts(self) -> list[ipywidgets.Widget]:
        """Text and buttons."""
        return [self._text, self._pin, self._unload]

    def show(self, model: ModelRow) -> None:
        """Write `model` to the row."""
        self._text.value = _describe(model, live=True)
        self._pin.description = "Unpin" if model.pinned else "Pin"
        self._pin.tooltip = (
            f"Let {model.name} leave memory again" if model.pinned else f"Keep {model.name} in memory"
        )
        self._pin.disabled = model.state != "ready"
        self._unload.description, tooltip = UNLOAD.get(model.state, UNLOAD["ready"])
        self._unload.tooltip = tooltip.format(model.name)


def _describe(model: ModelRow, *, live: bool) -> str:
    """`live` tells the time that is left, too: a picture of it would be wrong a second later."""
    counting = model.leaves.startswith("leaves memory in ")
    when = model.leaves if live or not counting else ""
    words = " · ".join(part for part in (model.facts, model.doing, when) if part)
    shown = html.line(model.name) + html.line(words, dim=True)
    if model.progress is not None:
        shown += html.bar(model.progress, f"Loading {model.name}")
    return shown + html.error(model.failure or "")
