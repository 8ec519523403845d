"""Choosing a model: searching disk and Hub, seeing whether it fits, loading it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import ipywidgets

from samovar.errors import ServerError
from samovar.progress import describe
from samovar.records import OPEN, Event, LoadOptions
from samovar.session import Session, current_session
from samovar.widgets import html
from samovar.widgets.catalogue import CatalogueState, estimate_words
from samovar.widgets.panel import Panel
from samovar.widgets.parts import WIDE, button, growing, row

DTYPES = ["auto", "float32", "bfloat16", "float16"]
QUANTIZATIONS = ["auto", "none", "int8", "int4", "nf4"]


class Picker(Panel):
    """A model to choose: those on disk, and those that the Hub has for a text.

        picker = samovar.widgets.Picker()
        picker
        samovar.generate("Hello", model=picker.value)

    It says how large a model is, in which format, and whether memory has room for it under the load
    options chosen below.
    """

    title = "Choose a model"
    listens = True

    def __init__(self, connect: Callable[[], Session] = current_session) -> None:
        self.state = CatalogueState()
        self._answer = ""
        self._refilling = False
        self.text = growing(
            ipywidgets.Text(
                description="Search", placeholder="part of a name", continuous_update=False, style=WIDE
            )
        )
        self.models = ipywidgets.Select(
            description="Models", rows=7, layout={"width": "auto"}, style={"description_width": "60px"}
        )
        self.dtype = _dropdown("Type", DTYPES)
        self.quantization = _dropdown("Quantization", QUANTIZATIONS)
        self.context = ipywidgets.Text(
            description="Context",
            placeholder="tokens; auto",
            continuous_update=False,
            style=WIDE,
            layout={"width": "170px"},
        )
        self.pin = ipywidgets.Checkbox(description="Pin", indent=False, layout={"width": "60px"})
        self.answer = ipywidgets.HTML()
        search = row(
            self.text, button("Search Hub", "Search the Hub for this text", self._search, width="100px")
        )
        options = row(self.dtype, self.quantization, self.context, self.pin)
        self.load_button = button("Load", "Bring the chosen model into memory", self._load)
        self.download_button = button(
            "Download", "Bring the chosen model to the server's disk", self._download
        )
        super().__init__(
            [search, self.models, options, self.answer, row(self.load_button, self.download_button)], connect
        )
        self.text.observe(self._filter, "value")
        for part in (self.models, self.dtype, self.quantization, self.context):
            part.observe(self._estimate, "value")

    @property
    def value(self) -> str | None:
        """The name of the chosen model; None while none is chosen."""
        chosen: str | None = self.models.value
        return chosen

    def heard(self, session: Session, event: Event) -> None:
        """List the disk anew when it may have changed."""
        done = event.kind == "download" and event.data["change"] == "completed"
        if done or event.kind in {OPEN, "missed"}:
            stored = session.inventory()
            fits = {}
            for model in stored:
                with suppress(ServerError):  # a model that no backend can load has no estimate
                    fits[model.model_name] = session.estimate(model.model_name).fits
            with self.guard:
                self.state.set_stored(stored, fits)

    def refresh(self) -> None:
        """Show what there is to choose from, and keep what is chosen."""
        options = [(choice.words(), choice.name) for choice in self.state.choices()]
        if list(self.models.options) != options:
            chosen = self.models.value
            self._refilling = True  # new options choose the first of them, which nobody asked for
            self.models.options = options
            self.models.value = chosen if chosen in {name for _, name in options} else None
            self._refilling = False
        choice = self.state.find(self.value) if self.value else None
        self.load_button.disabled = choice is None or not choice.on_disk
        self.download_button.disabled = choice is None or choice.on_disk
        self.answer.value = html.line(self._answer) if self._answer else ""

    def picture(self) -> str:
        """What was chosen, and from what."""
        rows = [
            [choice.words(), "chosen" if choice.name == self.value else ""] for choice in self.state.choices()
        ]
        shown = html.table(["Model", "Choice"], rows) if rows else html.line("There is no model.", dim=True)
        return shown + (html.line(self._answer) if self._answer else "")

    def load_options(self) -> LoadOptions | None:
        """What is chosen below the list; None, and said so, where the context length is no number."""
        context = self.context.value.strip()
        if context and not (context.isascii() and context.isdecimal() and int(context) > 0):
            self.say(f"The context length is a number of tokens, such as 2048, not {context!r}.")
            return None
        return LoadOptions(
            dtype=None if self.dtype.value == "auto" else self.dtype.value,
            quantization=None if self.quantization.value == "auto" else self.quantization.value,
            context_length=int(context) if context else None,
        )

    def _filter(self, _: object) -> None:
        with self.guard:
            self.state.text = self.text.value
            self.state.set_found(())  # they were found for another text
        self.update()

    def _search(self) -> None:
        text = self.text.value.strip()
        if not text:
            self.say("Write part of a model's name first.")
            return

        def task(session: Session) -> None:
            found = session.search(text)
            with self.guard:
                if self.text.value.strip() == text:
                    self.state.set_found(found)
            self._set_answer(
                f"The Hub has {len(found)} models for {text!r}." if found else f"The Hub has no {text!r}."
            )

        self.work(task)

    def _estimate(self, _: object) -> None:
        if self._refilling:
            return
        name, options = self.value, self.load_options()
        if name is None or options is None:
            self.update()
            return

        def task(session: Session) -> None:
            words = estimate_words(session.estimate(name, options))
            if (self.value, self.load_options()) == (name, options):  # or another one is chosen by now
                self._set_answer(words)

        self.work(task)

    def _load(self) -> None:
        name, options = self.value, self.load_options()
        if name is None or options is None:
            return
        pin = self.pin.value or None

        def task(session: Session) -> None:
            loaded = session.load(
                name,
                pin=pin,
                options=options,
                on_progress=lambda progress: self._set_answer(describe(progress, name)),
            )
            self._set_answer(f"{loaded.model} is in memory.")

        self.work(task)

    def _download(self) -> None:
        name = self.value
        if name is None:
            return

        def task(session: Session) -> None:
            session.download(name)
            self._set_answer(f"{name} is being downloaded; samovar.widgets.Downloads() shows how far it is.")

        self.work(task)

    def _set_answer(self, words: str) -> None:
        with self.guard:
            self._answer = words
        self.update()


def _dropdown(description: str, options: list[str]) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(
        description=description, options=options, style=WIDE, layout={"width": "auto", "flex": "0 1 auto"}
    )
