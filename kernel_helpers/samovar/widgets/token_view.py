"""The token view: a text, each token coloured by its probability."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets

from samovar.defaults import model_in_use
from samovar.progress import describe
from samovar.records import OPEN, Event
from samovar.session import Session, current_session
from samovar.widgets import html
from samovar.widgets.panel import Panel
from samovar.widgets.parts import FIRST, button, growing, model_box, row
from samovar.widgets.scores import CLASSES, ScoreState, ShownToken, visible

STYLES = {
    "first": "border-bottom: 1px dotted var(--sv-line)",
    "likely": "background: color-mix(in srgb, var(--jp-success-color1, #388e3c) 22%, transparent)",
    "possible": "background: color-mix(in srgb, var(--jp-warn-color1, #f57c00) 18%, transparent); "
    "border-bottom: 2px dotted currentColor",
    "unlikely": "background: color-mix(in srgb, var(--jp-warn-color1, #f57c00) 38%, transparent); "
    "border-bottom: 2px dashed currentColor",
    "surprising": "background: color-mix(in srgb, var(--jp-error-color1, #d32f2f) 40%, transparent); "
    "border-bottom: 3px double currentColor",
}
"""Each class has a line of its own, too, for those who do not see its colour."""


class TokenView(Panel):
    """How probable a model finds each token of a text, with the likeliest others, and the perplexity.

        samovar.widgets.TokenView("The sky is green.", model="demo")

    Point at a token, or choose it by its number, to see what the model would rather have had there.
    `state.tokens()` and `state.perplexity()` give the same to code.
    """

    title = "Tokens"
    listens = True

    def __init__(
        self,
        text: str = "",
        model: str = "",
        *,
        alternatives: int = 5,
        connect: Callable[[], Session] = current_session,
    ) -> None:
        self.state = ScoreState()
        self._alternatives = alternatives
        self._doing = ""
        self.text = growing(
            ipywidgets.Textarea(value=text, description="Text", rows=3, continuous_update=False, style=FIRST)
        )
        self.model = model_box(model)
        self.score_button = button("Score", "Ask the model how probable each token is", self._score)
        self.tokens = ipywidgets.HTML()
        # Not a slider: that of ipywidgets has no name for screen readers.
        self.place = ipywidgets.BoundedIntText(
            description="Token", min=1, max=1, style=FIRST, layout={"width": "150px"}, disabled=True
        )
        self.detail = ipywidgets.HTML()
        super().__init__(
            [
                row(self.text),
                row(self.model, self.score_button),
                self.tokens,
                row(self.place),
                self.detail,
            ],
            connect,
        )
        self.place.observe(lambda _: self.update(), "value")

    def start(self) -> None:
        """Score the text that it was made with, if there is one."""
        super().start()
        if self.text.value.strip() and not self.state.tokens():
            self._score()

    def heard(self, session: Session, event: Event) -> None:
        """Learn the models' names; nothing else that happens matters here."""
        if event.kind == OPEN:
            names = [model.id for model in session.models()]
            with self.guard:
                self.model.options = names

    def refresh(self) -> None:
        """Show the tokens, and more of the chosen one."""
        tokens = self.state.tokens()
        self.tokens.value = html.line(self._doing, dim=True) if self._doing else self._text(tokens)
        self.score_button.disabled = bool(self._doing)
        self.place.max = max(len(tokens), 1)
        self.place.disabled = not tokens
        self.detail.value = html.news(tokens[self.place.value - 1].sentence()) if tokens else ""

    def picture(self) -> str:
        """The tokens as they are."""
        tokens = self.state.tokens()
        return self._text(tokens) if tokens else html.line("No text has been scored.", dim=True)

    def _text(self, tokens: list[ShownToken]) -> str:
        if not tokens:
            return ""
        shown = "".join(_span(token.kind, visible(token.text), token.sentence()) for token in tokens)
        legend = " ".join(_span(name, f"{name} (from {least:.0%})") for least, name in CLASSES)
        return (
            f'<div class="samovar-tokens">{shown}</div>{html.line(self.state.summary())}<div>{legend}</div>'
        )

    def _score(self) -> None:
        text, model = self.text.value, self.model.value.strip() or model_in_use()
        if not text.strip():
            self.say("Write a text first.")
            return

        def task(session: Session) -> None:
            try:
                loaded = session.load(
                    model, on_progress=lambda on: self._tell(describe(on, model or "the model"))
                )
                scores = session.score(text, model=model, alternatives=self._alternatives)
                with self.guard:
                    self.state.set(scores, loaded.model)
            finally:
                self._tell("")

        self._tell("Scoring")
        self.work(task)

    def _tell(self, words: str) -> None:
        with self.guard:
            self._doing = words
        self.update()


def _span(kind: str, text: str, more: str = "") -> str:
    """`more` is shown where the pointer is, by the style: it is no part of the text, so it is not copied."""
    shown = f' data-more="{escape(more)}"' if more else ""
    return f'<span style="{STYLES[kind]}"{shown}>{escape(text)}</span>'
