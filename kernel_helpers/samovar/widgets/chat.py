"""The chat panel."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets

from samovar.errors import SamovarError
from samovar.records import OPEN, Event
from samovar.session import Session, current_session
from samovar.widgets import html
from samovar.widgets.answer import Answer, Frames
from samovar.widgets.dialogue import Dialogue, Parameters, Turn
from samovar.widgets.export import write_notebook
from samovar.widgets.panel import Panel
from samovar.widgets.parts import FIRST, WIDE, Rows, button, growing, model_box, row

NAMES = {"user": "You", "assistant": "Model"}


class Chat(Panel):
    """A conversation with a model: streaming, stop, regenerate, edit, system text, parameters.

        samovar.widgets.Chat(model="demo", system="You answer in one sentence.")

    "Export" writes it as a notebook with a cell for each question. `chat.state.turns` are the turns.
    """

    title = "Chat"
    listens = True

    def __init__(
        self,
        model: str = "",
        *,
        system: str = "",
        temperature: float = 1.0,
        max_tokens: int = 512,
        connect: Callable[[], Session] = current_session,
    ) -> None:
        self.state = Dialogue()
        self._answer: Answer | None = None
        self._frames = Frames()
        self._said = ""
        self.model = model_box(model)
        number = {"style": WIDE, "layout": {"width": "142px"}}
        self.temperature = ipywidgets.BoundedFloatText(
            value=temperature, min=0.0, max=2.0, step=0.1, description="Temperature", **number
        )
        self.top_p = ipywidgets.BoundedFloatText(
            value=1.0, min=0.01, max=1.0, step=0.05, description="Top p", **number
        )
        self.max_tokens = ipywidgets.BoundedIntText(
            value=max_tokens, min=1, max=1_000_000, description="Max tokens", **number
        )
        self.seed = ipywidgets.Text(description="Seed", placeholder="none", continuous_update=False, **number)
        self.system = growing(
            ipywidgets.Textarea(
                value=system, description="System", rows=2, continuous_update=False, style=FIRST
            )
        )
        self.rows = Rows(lambda key: _Row(self, int(key)))
        self.text = growing(
            ipywidgets.Textarea(
                description="Message",
                rows=2,
                placeholder="Ask something",
                continuous_update=False,
                style=FIRST,
            )
        )
        self.send_button = button("Send", "Send the message", self._ask)
        self.stop_button = button("Stop", "End the answer that is coming; what has come stays", self._stop)
        self.again_button = button("Regenerate", "Ask the last question again", self._again)
        self.clear_button = button("Clear", "Forget the conversation", self._clear)
        self.export_button = button("Export", "Write the conversation as a notebook", self._export)
        self.note = ipywidgets.HTML()
        super().__init__(
            [
                row(self.model),
                row(self.temperature, self.top_p, self.max_tokens, self.seed),
                row(self.system),
                self.rows.box,
                row(self.text),
                row(
                    self.send_button,
                    self.stop_button,
                    self.again_button,
                    self.clear_button,
                    self.export_button,
                ),
                self.note,
            ],
            connect,
        )

    def heard(self, session: Session, event: Event) -> None:
        """Learn the models' names; nothing else that happens matters here."""
        if event.kind == OPEN:
            names = [model.id for model in session.models()]
            with self.guard:
                self.model.options = names

    def refresh(self) -> None:
        """Show the conversation and what can be done with it."""
        self.rows.show({str(index): turn for index, turn in enumerate(self.state.shown())})
        busy = self.state.busy
        self.send_button.disabled = self.clear_button.disabled = busy
        self.export_button.disabled = busy or not self.state.turns
        self.stop_button.disabled = not busy
        self.again_button.disabled = not self.state.can_regenerate
        editing = self.state.editing
        note = (
            self._said
            if editing is None
            else f"Sending replaces question {editing // 2 + 1} and what follows."
        )
        self.note.value = html.news(note)

    def picture(self) -> str:
        """The conversation as it is."""
        system = self.system.value.strip()
        shown = [html.line(f"System: {system}", dim=True)] if system else []
        return "".join(shown + [_describe(turn) for turn in self.state.shown()])

    def parameters(self) -> Parameters | None:
        """What is chosen above the conversation; None, and said so, where the seed is no number."""
        seed = self.seed.value.strip()
        if seed and not (seed.isascii() and seed.removeprefix("-").isdecimal()):
            self.say(f"The seed is a whole number or empty, not {seed!r}.")
            return None
        return Parameters(
            model=self.model.value.strip() or None,
            temperature=self.temperature.value,
            top_p=self.top_p.value if self.top_p.value < 1.0 else None,
            max_tokens=self.max_tokens.value,
            seed=int(seed) if seed else None,
        )

    def edit(self, index: int) -> None:
        """Put the question at `index` into the message field; the next message replaces it."""
        with self.guard:
            if not self.state.busy:
                self.text.value = self.state.edit(index)
        self.update()

    def _ask(self) -> None:
        text = self.text.value.strip()
        if not text:
            self.say("Write a message first.")
            return
        self._begin(lambda: self.state.ask(text), then_empty=True)

    def _again(self) -> None:
        self._begin(self.state.ask_again)

    def _begin(self, ask: Callable[[], None], *, then_empty: bool = False) -> None:
        parameters = self.parameters()
        with self.guard:
            if parameters is None or self.state.busy:
                return
            self.state.system = self.system.value
            ask()
            answer = self._answer = Answer(parameters.request(self.state.messages()))
            self._said = ""
            if then_empty:
                self.text.value = ""
        self.update()
        self.work(lambda session: self._run(answer, session))

    def _run(self, answer: Answer, session: Session) -> None:
        result = None
        try:
            result = answer.run(session, self._on_text, self._on_wait)
        except SamovarError as error:
            result = error.partial
            raise
        finally:
            with self.guard:
                self.state.finish(result)
                if result is not None and result.finish_reason == "interrupted" and not result.text:
                    self._said = "Stopped before an answer came."

    def _on_text(self, piece: str) -> None:
        with self.guard:
            self.state.add(piece)
        if self._frames.due():
            self.update()

    def _on_wait(self, words: str) -> None:
        with self.guard:
            self.state.wait(words)
        self.update()

    def _stop(self) -> None:
        with self.guard:
            answer = self._answer
        if answer is not None:
            answer.stop()

    def _clear(self) -> None:
        with self.guard:
            if not self.state.busy:
                self.state.clear()
        self.update()

    def _export(self) -> None:
        parameters = self.parameters()
        if parameters is None:
            return
        path = next(path for path in _free_names() if not path.exists())
        try:
            with self.guard:
                write_notebook(path, self.state.turns, self.system.value.strip(), parameters)
                self._said = f"Written to {path}, a cell for each question."
        except OSError as error:
            self.say(f"{path} cannot be written: {error.strerror}.")
        self.update()

    def close(self) -> None:
        """Stop the answer that is coming, and end."""
        self._stop()
        super().close()


class _Row:
    """One turn; a question can be edited."""

    def __init__(self, chat: Chat, index: int) -> None:
        self._text = growing(ipywidgets.HTML())
        self._edit = button("Edit", f"Edit question {index // 2 + 1} and ask anew", lambda: chat.edit(index))
        self.box = row(self._text)

    def parts(self) -> list[ipywidgets.Widget]:
        """Text and buttons."""
        return [self._text, self._edit]

    def show(self, item: Turn) -> None:
        """Write `item` to the row."""
        self._text.value = _describe(item)
        wanted = (self._text, self._edit) if item.role == "user" else (self._text,)
        if self.box.children != wanted:
            self.box.children = wanted


def _describe(turn: Turn) -> str:
    text = f'<div style="white-space: pre-wrap">{escape(turn.text)}</div>' if turn.text else ""
    note = html.line(turn.note, dim=True) if turn.note else ""
    return html.title(NAMES[turn.role]) + text + note


def _free_names() -> list[Path]:
    return [Path("chat.ipynb"), *(Path(f"chat-{number}.ipynb") for number in range(2, 1000))]
