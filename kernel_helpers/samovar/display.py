"""Where a load and a generation appear while they go on: in a notebook's cell or on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from samovar.progress import ProgressLine, Wait
from samovar.records import LoadProgress

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

Rendering = Literal["text", "markdown", "raw"]

SECONDS_PER_CHARACTER = 2e-6
"""A cell is sent whole at every update, so the pause between updates grows with the text: a tenth of a
second at 50,000 characters. Up to a few thousand characters every token is shown as it arrives."""

PLAIN_STYLE = "margin: 0; padding: 0 5px; white-space: pre-wrap; word-break: normal"
"""As a front end shows plain text, but with whole words."""

_CONTROL = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t")


class Notice(Protocol):
    """Says how far a load is, and goes away without a trace."""

    def progress(self, progress: LoadProgress) -> None:
        """Show `progress` in place of what was shown before."""

    def tick(self) -> None:
        """Some time has passed: show that it goes on."""

    def close(self) -> None:
        """Take the notice away. May be called twice."""


class Line(Protocol):
    """One line on how far something is, replaced as it goes on, and gone when it is over."""

    def show(self, line: str, *, phase: str, fraction: float) -> None:
        """Say `line`. Where lines stay, only a new `phase` or a good deal more of `fraction` is said."""

    def close(self) -> None:
        """Take it away. May be called twice."""


class CellLine:
    """A line in a notebook's cell."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None

    def show(self, line: str, *, phase: str, fraction: float) -> None:
        """Say `line`."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(as_html(line), raw=True, display_id=True)
        else:
            self._handle.update(as_html(line), raw=True)

    def close(self) -> None:
        """Take it away."""
        if self._handle is not None:
            self._handle.update(as_html(""), raw=True)


class Screen(Notice, Protocol):
    """Shows one generation: perhaps progress, then text, then `close`, which leaves the text only."""

    def add(self, piece: str) -> None:
        """Show more text."""


def printable(text: str) -> str:
    """`text` without control characters: a model must not move the cursor or write over what is there."""
    return text.translate(_CONTROL)


def as_html(text: str) -> dict[str, str]:
    """`text` for a cell, as it stands.

    As HTML, since of plain text JupyterLab breaks the lines in the middle of words.
    """
    html = f'<pre style="{PLAIN_STYLE}">{escape(text)}</pre>' if text else ""
    return {"text/plain": text, "text/html": html}


def as_markdown(text: str) -> dict[str, str]:
    """`text` for a cell, as the Markdown that it is."""
    return {"text/plain": text, "text/markdown": text}


class CellScreen:
    """One output of a notebook's cell, replaced as the text grows."""

    def __init__(
        self, model: str, *, markdown: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wait = Wait(model, clock)
        self._markdown = markdown
        self._clock = clock
        self._handle: DisplayHandle | None = None
        self._text = ""
        self._shown: dict[str, str] = {}
        self._shown_at = -1.0

    def progress(self, progress: LoadProgress) -> None:
        """Show how far the load is, in the place of the text to come."""
        self._wait.note(progress)
        self._put(as_html(self._wait.words()))

    def tick(self) -> None:
        """While there is no text, show for how long that has been so."""
        if self._text:
            self._show_text()  # what came too soon after the last update, and was not followed by more
        else:
            self._put(as_html(self._wait.words()))

    def add(self, piece: str) -> None:
        """Show more text, unless the last update was too short a while ago."""
        self._text += printable(piece)
        if self._clock() - self._shown_at >= len(self._text) * SECONDS_PER_CHARACTER:
            self._show_text()

    def close(self) -> None:
        """Show all of the text; where there is none, take the progress away."""
        if self._handle is not None or self._text:
            self._show_text()

    def _show_text(self) -> None:
        self._put(as_markdown(self._text) if self._markdown else as_html(self._text))
        self._shown_at = self._clock()

    def _put(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        elif bundle != self._shown:
            self._handle.update(bundle, raw=True)
        self._shown = bundle


class LoadLine:
    """One line on the error stream."""

    def __init__(
        self, model: str, errors: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wait = Wait(model, clock)
        self._line = ProgressLine(errors)

    def progress(self, progress: LoadProgress) -> None:
        """Show `progress` in place of what was shown before."""
        self._wait.note(progress)
        self.tick()

    def tick(self) -> None:
        """Show how far it is by now."""
        progress = self._wait.progress
        self._line.show(self._wait.words(), phase=progress.phase, fraction=progress.fraction)

    def close(self) -> None:
        """Take the line away."""
        self._line.close()


class TextScreen:
    """Text that is only ever added to: a terminal, a pipe, or a cell's plain output."""

    def __init__(self, notice: Notice, stream: TextIO | None = None) -> None:
        self._notice = notice
        self._stream = sys.stdout if stream is None else stream
        self._last = "\n"
        self._begun = False

    def progress(self, progress: LoadProgress) -> None:
        """Show how far the load is."""
        self._notice.progress(progress)

    def tick(self) -> None:
        """While there is no text, show for how long that has been so."""
        if not self._begun:
            self._notice.tick()

    def add(self, piece: str) -> None:
        """Write more text at once."""
        self._notice.close()
        self._begun = True
        piece = printable(piece)
        self._stream.write(piece)
        self._stream.flush()
        self._last = piece[-1:] or self._last

    def close(self) -> None:
        """End the last line."""
        self._notice.close()
        if self._last != "\n":
            self._stream.write("\n")
            self._stream.flush()
            self._last = "\n"
