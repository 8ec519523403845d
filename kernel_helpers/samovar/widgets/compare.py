"""The comparison: prompts by models or parameters, filling in live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from samovar.widgets.dialogue import Parameters
from samovar.widgets.grid import Cell, Grid, Place
from samovar.widgets.panel import Panel
from samovar.widgets.parts import WIDE, button, growing, row

if TYPE_CHECKING:
    import pandas as pd

CONCURRENCY = 4
"""Requests at a time; the server decodes those of one model together."""


class Compare(Panel):
    """Every prompt, answered by every model at every temperature, side by side.

        compare = samovar.widgets.Compare(["Why is the sky blue?"], temperatures=[0, 1])
        compare
        compare.dataframe()

    A prompt to a line. `rows()` gives the answers as dictionaries, `dataframe()` with pandas.
    """

    title = "Compare"
    listens = True

    def __init__(
        self,
        prompts: Sequence[str] = (),
        models: Sequence[str] = (),
        *,
        temperatures: Sequence[float] = (0.0,),
        max_tokens: int = 128,
        system: str = "",
        seed: int | None = None,
        connect: Callable[[], Session] = current_session,
    ) -> None:
        self.state = Grid()
        self._system = system
        self._seed = seed
        self._frames = Frames()
        self._said = ""
        self.prompts = growing(
            ipywidgets.Textarea(
                value="\n".join(prompts),
                description="Prompts",
                placeholder="one to a line",
                rows=3,
                continuous_update=False,
                style=WIDE,
            )
        )
        self.models = growing(
            ipywidgets.Text(
                value=", ".join(models),
                description="Models",
                placeholder="names with commas between; empty: the default",
                continuous_update=False,
                style=WIDE,
            )
        )
        self.temperatures = ipywidgets.Text(
            value=", ".join(f"{temperature:g}" for temperature in temperatures),
            description="Temperatures",
            continuous_update=False,
            style=WIDE,
            layout={"width": "210px"},
        )
        self.max_tokens = ipywidgets.BoundedIntText(
            value=max_tokens,
            min=1,
            max=1_000_000,
            description="Max tokens",
            style=WIDE,
            layout={"width": "150px"},
        )
        self.run_button = button("Run", "Answer every prompt under every setting", self._run)
        self.stop_button = button("Stop", "End the answers that are still to come", self._stop)
        self.variable = ipywidgets.Text(
            value="compared",
            description="Variable",
            continuous_update=False,
            style=WIDE,
            layout={"width": "180px"},
        )
        self.export_button = button("Export", "Put the answers into this variable", self._export)
        self.table = ipywidgets.HTML()
        self.note = ipywidgets.HTML()
        super().__init__(
            [
                row(self.prompts),
                row(self.models, self.temperatures, self.max_tokens),
                row(self.run_button, self.stop_button, self.variable, self.export_button),
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
        self.note.value = html.line(self._said, dim=True) if self._said else ""

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

    def _columns(self) -> list[Parameters] | None:
        models = [name.strip() for name in self.models.value.split(",") if name.strip()]
        try:
            temperatures: list[float | None] = [
                float(text) for text in self.temperatures.value.split(",") if text.strip()
            ]
        except ValueError:
            self.say(
                f"Temperatures are numbers with commas between: 0, 0.7; not {self.temperatures.value!r}."
            )
            return None
        return [
            Parameters(model, temperature, max_tokens=self.max_tokens.value, seed=self._seed)
            for model in models or [None]
            for temperature in temperatures or [None]
        ]

    def _run(self) -> None:
        prompts = [line.strip() for line in self.prompts.value.splitlines() if line.strip()]
        columns = self._columns()
        if columns is None:
            return
        if not prompts:
            self.say("Write a prompt first.")
            return
        with self.guard:
            if self.state.busy:
                return
            self.state.begin(prompts, columns, self._system)
            self._said = ""
        self.update()
        self.work(self._fill)

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

    def _stop(self) -> None:
        with self.guard:
            self.state.stop()

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
        self._stop()
        super().close()


def _describe(cell: Cell) -> str:
    note = cell.note or ("" if cell.state == "done" else cell.state)
    return escape(cell.text) + (html.line(note, dim=True) if note else "") + html.error(cell.error or "")
