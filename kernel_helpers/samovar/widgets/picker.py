"""Choosing a model: searching disk and Hub, seeing whether it fits, loading it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress

import ipywidgets

from samovar.errors import BadOption, ServerError
from samovar.options import number
from samovar.progress import describe
from samovar.records import OPEN, Event, LoadOptions
from samovar.request import CHOICES
from samovar.session import Session, current_session
from samovar.widgets import html
from samovar.widgets.catalogue import CatalogueState, estimate_words
from samovar.widgets.panel import Panel
from samovar.widgets.parts import FIRST, WIDE, button, growing, row


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
        self._fits = ""  # what is said of the choice
        self._answer = ""  # and of what was asked for last
        self._refilling = False
        self._devices: Sequence[str] = ()
        self.text = growing(
            ipywidgets.Text(
                description="Search", placeholder="part of a name", continuous_update=False, style=FIRST
            )
        )
        self.models = ipywidgets.Select(description="Models", rows=7, layout={"width": "auto"}, style=FIRST)
        self.dtype = _dropdown("Type", CHOICES["dtype"])
        self.quantization = _dropdown("Quantization", CHOICES["quantization"])
        self.device = _dropdown("Device", [("auto", "auto")])
        self.backend = _dropdown("Backend", CHOICES["backend"])
        self.context = _text("Context", "tokens; auto", "160px")
        self.ttl = _text("Time to live", "seconds; default", "210px")
        self.pin = ipywidgets.Checkbox(description="Pin", indent=False, layout={"width": "60px"})
        self.answer = ipywidgets.HTML()
        search = row(self.text, button("Search Hub", "Search the Hub for this text", self._search))
        kind = row(self.dtype, self.quantization, self.device, self.backend)
        stay = row(self.context, self.ttl, self.pin)
        self.load_button = button("Load", "Bring the chosen model into memory", self._load)
        self.download_button = button(
            "Download", "Bring the chosen model to the server's disk", self._download
        )
        super().__init__(
            [search, self.models, kind, stay, self.answer, row(self.load_button, self.download_button)],
            connect,
        )
        self.text.observe(self._filter, "value")
        for part in (self.models, self.dtype, self.quantization, self.device, self.backend, self.context):
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
            devices = [memory.device for memory in session.memory()]
            with self.guard:
                self.state.set_stored(stored, fits)
                if done:
                    self._answer = f"{event.data['job']['url']} is on disk."
                self._devices = devices

    def refresh(self) -> None:
        """Show what there is to choose from, and keep what is chosen."""
        self._refill(self.models, [(choice.words(), choice.name) for choice in self.state.choices()], None)
        self._refill(self.device, [(name, name) for name in ("auto", *self._devices)], "auto")
        choice = self.state.find(self.value) if self.value else None
        self.load_button.disabled = choice is None or not choice.on_disk
        self.download_button.disabled = choice is None or choice.on_disk
        self.answer.value = html.news(self._fits) + html.news(self._answer)

    def _refill(
        self, part: ipywidgets.Widget, options: Sequence[tuple[str, str]], otherwise: str | None
    ) -> None:
        """Give a list its options, each a text and a value; what is chosen stays, if it is still there."""
        if list(part.options) == list(options):
            return
        chosen = part.value
        self._refilling = True  # new options choose the first of them, which nobody asked for
        part.options = options
        part.value = chosen if chosen in {value for _, value in options} else otherwise
        self._refilling = False

    def picture(self) -> str:
        """What was chosen, and from what."""
        shown = "".join(
            html.line(f"● {choice.words()} (chosen)" if choice.name == self.value else f"○ {choice.words()}")
            for choice in self.state.choices()
        )
        shown = shown or html.line("There is no model.", dim=True)
        return shown + html.news(self._fits) + html.news(self._answer)

    def load_options(self) -> LoadOptions | None:
        """What is chosen below the list; None, and said so, where the context length is no number."""
        context = self.context.value.strip()
        if context and not (context.isascii() and context.isdecimal() and int(context) > 0):
            self.say(f"The context length is a number of tokens, such as 2048, not {context!r}.")
            return None
        return LoadOptions(
            backend=_chosen(self.backend),
            device=_chosen(self.device),
            dtype=_chosen(self.dtype),
            quantization=_chosen(self.quantization),
            context_length=int(context) if context else None,
        )

    def _time_to_live(self) -> float | None:
        """Seconds, None for the server's default; BadOption where that is no number."""
        text = self.ttl.value.strip()
        try:
            return number(text) if text else None
        except argparse.ArgumentTypeError:
            raise BadOption(
                f"The time to live is a number of seconds, 0 for ever, or empty; not {text!r}."
            ) from None

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
        with self.guard:
            self._fits = ""
        self.update()
        name, options = self.value, self.load_options()
        if name is None or options is None:
            return

        def task(session: Session) -> None:
            words = estimate_words(session.estimate(name, options))
            with self.guard:
                if (self.value, self.load_options()) == (name, options):  # or another one is chosen by now
                    self._fits = words

        self.work(task)

    def _load(self) -> None:
        name, options = self.value, self.load_options()
        if name is None or options is None:
            return
        pin = self.pin.value or None
        try:
            ttl = self._time_to_live()
        except BadOption as error:
            self.say(str(error))
            return

        def task(session: Session) -> None:
            loaded = session.load(
                name,
                ttl=ttl,
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


def _chosen(part: ipywidgets.Dropdown) -> str | None:
    value: str = part.value
    return None if value == "auto" else value


def _text(description: str, placeholder: str, width: str) -> ipywidgets.Text:
    return ipywidgets.Text(
        description=description,
        placeholder=placeholder,
        continuous_update=False,
        style=WIDE,
        layout={"width": width},
    )


def _dropdown(description: str, options: Sequence[str] | Sequence[tuple[str, str]]) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(
        description=description, options=options, style=WIDE, layout={"width": "auto", "flex": "0 1 auto"}
    )
