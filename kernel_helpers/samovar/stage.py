"""Where generations appear while they go on: one as its own text, several side by side."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from samovar.answers import columns
from samovar.display import SECONDS_PER_CHARACTER, Screen, printable
from samovar.progress import ProgressLine, Wait
from samovar.result import Generation
from samovar.together import Ends, Grows, Happening, Waits

if TYPE_CHECKING:
    from IPython.display import DisplayHandle


class Stage(Protocol):
    """Shows what happens to generations."""

    def show(self, happening: Happening | None) -> None:
        """Show it; None: a second has passed in which nothing happened."""

    def catch_up(self, results: Sequence[Generation]) -> None:
        """Show also what had come but was not told any more."""

    def close(self) -> None:
        """Leave only what is to stay."""


class Solo:
    """One answer, on a screen of its own."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._shown = 0

    def show(self, happening: Happening | None) -> None:
        """Show it."""
        match happening:
            case Waits():
                self._screen.progress(happening.progress)
            case Grows():
                self._screen.add(happening.text)
                self._shown += len(happening.text)
            case None:
                self._screen.tick()

    def catch_up(self, results: Sequence[Generation]) -> None:
        """Show the rest of the text."""
        if rest := results[0].text[self._shown :]:
            self._screen.add(rest)

    def close(self) -> None:
        """Leave the text."""
        self._screen.close()


@dataclass
class Column:
    """One answer of one model: its title, its text, and a note on it once it has ended."""

    title: str
    wait: Wait
    text: str = ""
    note: str = ""

    def line(self) -> str:
        """What is to be said below the text now."""
        return self.note or ("" if self.text else self.wait.words())


Place = tuple[int, int]
"""Which generation, and which of its answers."""


class Side:
    """Answers side by side in one output of a notebook's cell; as Markdown, one below the other."""

    def __init__(
        self,
        names: Sequence[str],
        choices: int,
        *,
        markdown: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._columns = make_columns(names, choices, clock)
        self._markdown = markdown
        self._clock = clock
        self._handle: DisplayHandle | None = None
        self._shown: dict[str, str] = {}
        self._shown_at = -1.0

    def show(self, happening: Happening | None) -> None:
        """Show it, unless the last update was too short a while ago."""
        note(self._columns, happening)
        characters = sum(len(column.text) for column in self._columns.values())
        if self._clock() - self._shown_at >= characters * SECONDS_PER_CHARACTER:
            self._put()

    def catch_up(self, results: Sequence[Generation]) -> None:
        """Show the rest of each text."""
        catch_up(self._columns, results)

    def close(self) -> None:
        """Leave the texts, and no waits."""
        for column in self._columns.values():
            column.note = column.note or "interrupted"
        if self._handle is not None:
            self._put()

    def _put(self) -> None:
        from IPython.display import display

        bundle = self._bundle()
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        elif bundle != self._shown:
            self._handle.update(bundle, raw=True)
        self._shown, self._shown_at = bundle, self._clock()

    def _bundle(self) -> dict[str, str]:
        parts = [(column.title, column.text, column.line()) for column in self._columns.values()]
        bundle = {"text/plain": "\n\n".join("\n".join(filter(None, part)) for part in parts)}
        if self._markdown:
            return bundle | {"text/markdown": "\n\n".join("### {}\n\n{}\n\n*{}*".format(*p) for p in parts)}
        return bundle | {"text/html": columns(parts)}


class Below:
    """Answers one below the other, each written once it is whole: a terminal, or a cell's plain output."""

    def __init__(
        self,
        names: Sequence[str],
        choices: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._columns = make_columns(names, choices, clock)
        self._stream = sys.stdout if stream is None else stream
        self._line = ProgressLine()

    def show(self, happening: Happening | None) -> None:
        """Write what has ended; say how far the first of the others is."""
        note(self._columns, happening)
        if isinstance(happening, Ends):
            self._write([column for place, column in self._columns.items() if place[0] == happening.index])
        waiting = next((column for column in self._columns.values() if not column.note), None)
        if waiting is not None:
            progress = waiting.wait.progress
            self._line.show(waiting.wait.words(), phase=progress.phase, fraction=progress.fraction)

    def catch_up(self, results: Sequence[Generation]) -> None:
        """Write the rest of each text, too."""
        catch_up(self._columns, results)

    def close(self) -> None:
        """Write what had come of those that have not ended."""
        self._write([column for column in self._columns.values() if not column.note])

    def _write(self, ended: Sequence[Column]) -> None:
        self._line.close()
        for column in ended:
            column.note = column.note or "interrupted"
            self._stream.write(f"{column.title}:\n{column.text}\n({column.note})\n\n")
        self._stream.flush()


def make_columns(names: Sequence[str], choices: int, clock: Callable[[], float]) -> dict[Place, Column]:
    """A column for each answer of each model in `names`."""
    return {
        (index, choice): Column(f"{name} [{choice + 1}]" if choices > 1 else name, Wait(name, clock))
        for index, name in enumerate(names)
        for choice in range(choices)
    }


def catch_up(columns: dict[Place, Column], results: Sequence[Generation]) -> None:
    """Take the texts from the results."""
    for (index, choice), column in columns.items():
        column.text = printable(results[index].choices[choice].text)


def note(columns: dict[Place, Column], happening: Happening | None) -> None:
    """Take down what happened."""
    match happening:
        case Waits():
            for (index, _), column in columns.items():
                if index == happening.index:
                    column.wait.note(happening.progress)
        case Grows():
            columns[happening.index, happening.choice].text += printable(happening.text)
        case Ends():
            said = str(happening.error) if happening.error is not None else happening.result.summary()
            for (index, _), column in columns.items():
                if index == happening.index:
                    column.note = said
