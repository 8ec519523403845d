"""The comparison: prompts by models and settings, filling in live."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

import ipywidgets

from samovar.dataframes import dataframe
from samovar.errors import BadOption, SamovarError
from samovar.records import OPEN, Event
from samovar.session import Session, current_session
from samovar.widgets import html
from samovar.widgets.answer import Frames
from samovar.widgets.grid import Cell, Grid, Place
from samovar.widgets.panel import Panel
from samovar.widgets.parts import FIRST, WIDE, button, growing, row
from samovar.widgets.settings import parse_setting

if TYPE_CHECKING:
    import pandas as pd

CONCURRENCY = 4
"""Requests at a time; the server decodes those of one model together."""


class Compare(Panel):
    """Every prompt, answered by every model under every setting, side by side.

        compare = samovar.widgets.Compare(
            ["Why is the sky blue?"], settings=["--temperature 0", "--temperature 1 --top-p 0.9"]
        )
        compare
        compare.dataframe()

    A prompt to a line, and a setting, in the options of `%%generate`. `max_tokens` holds where a setting
    says nothing else. `rows()` gives the answers as dictionaries, `dataframe()` with pandas.
    """

    title = "Compare"
    listens = True

    def __init__(
        self,
        prompts: Sequence[str] = (),
        models: Sequence[str] = (),
        *,
        settings: Sequence[str] = ("--temperature 0",),
        max_tokens: int = 128,
        connect: Callable[[], Session] = current_session,
    ) -> None:
        self.state = Grid()
        self._frames = Frames()
        self._said = ""
        self.prompts = _lines("Prompts", prompts, "one to a line")
        self.models = growing(
            ipywidgets.Text(
                value=", ".join(models),
                description="Models",
                placeholder="names with commas between; empty: the default",
                continuous_update=False,
                style=FIRST,
            )
        )
        self.settings = _lines("Settings", settings, "one to a line, such as --temperature 1 --top-p 0.9")
        self.max_tokens = ipywidgets.BoundedIntText(
            value=max_tokens,
            min=1,
            max=1_000_000,
            description="Max tokens",
            style=WIDE,
            layout={"width": "150px"},
        )
        self.run_button = button("Run", "Answer every prompt under every setting", self._start)
        self.stop_button = button("Stop", "End the answers that are still to come", self.stop)
        self.variable = ipywidgets.Text(
            value="compared",
            description="Variable",
            continuous_update=False,
            style=WIDE,
            layout={"width": "160px"},
        )
        self.export_button = button("Export", "Put the answers into this variable", self._export)
        self.table = ipywidgets.HTML()
        self.note = ipywidgets.HTML()
        super().__init__(
            [
                row(self.prompts),
                row(self.models),
                row(self.settings),
                row(self.run_button, self.stop_button, self.max_tokens, self.variable, self.export_button),
                self.table,
                self.note,
            ],
            connect,
        )

    def heard(self, session: Session, event: Event) -> None:
        """Learn the models' names, to say them where nothing has been compared yet."""
        if event.kind == OPEN:
            names = [model.id for model in session.models()]
            with self.guard:
                self._said = self._said or (f"There are: {', '.join(names)}." if names else "")

    def refresh(self) -> None:
        """Show the answers."""
        busy = self.state.busy
        self.run_button.disabled = busy
        self.stop_button.disabled = not busy
        self.export_button.disabled = busy or not self.state.prompts
        self.table.value = self._table()
        self.note.value = html.news(self._said)

    def picture(self) -> str:
        """The answers as they are."""
        return self._table() or html.line("Nothing has been compared.", dim=True)

    def rows(self) -> list[dict[str, Any]]:
        """One record for each answer: prompt, parameters, text, tokens, speed, how it ended, error."""
        with self.guard:
            return self.state.rows()

    def dataframe(self) -> pd.DataFrame:
        """The same as a DataFrame; BadOption says so where pandas is not installed."""
        return dataframe(self.rows())

    def _table(self) -> str:
        if not self.state.prompts:
            return ""
        head = "".join(f'<th scope="col">{escape(label)}</th>' for label in self.state.labels())
        body = "".join(self._line(index, prompt) for index, prompt in enumerate(self.state.prompts))
        return (
            f'<table><thead><tr><th scope="col">Prompt</th>{head}</tr></thead><tbody>{body}</tbody></table>'
        )

    def _line(self, index: int, prompt: str) -> str:
        cells = (self.state.cell((index, column)) for column in range(len(self.state.columns)))
        shown = "".join(f"<td>{_describe(cell)}</td>" for cell in cells)
        return f'<tr><th scope="row">{escape(prompt)}</th>{shown}</tr>'

    def run(self) -> None:
        """Answer every prompt under every setting, and wait for the last answer.

        BadOption says what is wrong with an entry; interrupting the cell stops the answers.
        """
        thread = self._begin()
        try:
            thread.join()
        except KeyboardInterrupt:
            self.stop()
            raise

    def stop(self) -> None:
        """End the answers that are still to come; what has come stays."""
        with self.guard:
            self.state.stop()

    def _start(self) -> None:
        try:
            self._begin()
        except BadOption as error:
            self.say(str(error))

    def _begin(self) -> threading.Thread:
        """Begin to answer, on the thread that is returned."""
        prompts = _entries(self.prompts.value.splitlines())
        if not prompts:
            raise BadOption("Write a prompt first.")
        models: Sequence[str | None] = _entries(self.models.value.split(",")) or [None]
        columns = [
            parse_setting(line, model, self.max_tokens.value)
            for model in models
            for line in _entries(self.settings.value.splitlines()) or [""]
        ]
        with self.guard:
            if self.state.busy:
                raise BadOption("Stop the answers that are coming first.")
            self.state.begin(prompts, columns)
            self._said = ""
        self.update()
        return self.work(self._fill)

    def _fill(self, session: Session) -> None:
        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="samovar-compare") as pool:
            for _ in pool.map(lambda place: self._answer(place, session), self.state.places()):
                self.update()

    def _answer(self, place: Place, session: Session) -> None:
        def on_text(piece: str) -> None:
            with self.guard:
                self.state.add(place, piece)
            if self._frames.due():
                self.update()

        def on_wait(words: str) -> None:
            with self.guard:
                self.state.wait(place, words)
            if self._frames.due():
                self.update()

        result, failure = None, None
        try:
            result = self.state.answer(place).run(session, on_text, on_wait)
        except SamovarError as error:
            result, failure = error.partial, str(error)
        with self.guard:
            self.state.finish(place, result, failure)

    def _export(self) -> None:
        from IPython.core.getipython import get_ipython

        name = self.variable.value.strip()
        if not name.isidentifier() or iskeyword(name):
            self.say(f"{name!r} cannot be the name of a variable.")
            return
        try:
            kind, value = "a DataFrame", self.dataframe()
        except BadOption:
            kind, value = "a list of dictionaries, since pandas is not installed", self.rows()
        shell = get_ipython()
        if shell is None:
            self.say("There is no notebook to put a variable into.")
            return
        shell.push({name: value})
        with self.guard:
            self._said = f"{name} is {kind}."
        self.update()

    def close(self) -> None:
        """Stop the answers that are still to come, and end."""
        self.stop()
        super().close()


def _lines(description: str, lines: Sequence[str], placeholder: str) -> ipywidgets.Widget:
    return growing(
        ipywidgets.Textarea(
            value="\n".join(lines),
            description=description,
            placeholder=placeholder,
            rows=max(2, min(len(lines), 6)),
            continuous_update=False,
            style=FIRST,
        )
    )


def _entries(texts: Iterable[str]) -> list[str]:
    return [text.strip() for text in texts if text.strip()]


def _describe(cell: Cell) -> str:
    note = cell.note or ("" if cell.state == "done" else cell.state)
    return escape(cell.text) + (html.line(note, dim=True) if note else "") + html.error(cell.error or "")
