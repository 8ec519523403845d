"""Answers to every prompt under every setting. The state of the comparison; free of ipywidgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from samovar.request import as_messages
from samovar.result import Generation
from samovar.widgets.answer import Answer
from samovar.widgets.dialogue import Parameters

Place = tuple[int, int]
"""Row and column: which prompt, under which parameters."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer. `state` says how far it is: waiting, running, done, stopped, failed."""

    state: str = "waiting"
    text: str = ""
    note: str = ""
    result: Generation | None = None
    error: str | None = None


class Grid:
    """A row for each prompt, a column for each set of parameters. Not thread-safe."""

    def __init__(self) -> None:
        self.prompts: Sequence[str] = ()
        self.columns: Sequence[Parameters] = ()
        self._cells: dict[Place, Cell] = {}
        self._answers: dict[Place, Answer] = {}

    def begin(self, prompts: Sequence[str], columns: Sequence[Parameters], system: str = "") -> None:
        """Forget all; every answer is to come."""
        self.prompts, self.columns = prompts, columns
        places = list(product(range(len(prompts)), range(len(columns))))
        self._cells = dict.fromkeys(places, Cell())
        self._answers = {
            (row, column): Answer(columns[column].request(as_messages(prompts[row], system)))
            for row, column in places
        }

    def places(self) -> list[Place]:
        """All places, column by column: one model after the other, so that none is loaded twice."""
        return sorted(self._cells, key=lambda place: (place[1], place[0]))

    def answer(self, place: Place) -> Answer:
        """The answer to be made at `place`."""
        return self._answers[place]

    def cell(self, place: Place) -> Cell:
        """What is at `place` now."""
        return self._cells[place]

    def wait(self, place: Place, words: str) -> None:
        """It is being made, and waits for something."""
        self._cells[place] = replace(self._cells[place], state="running", note=words)

    def add(self, place: Place, piece: str) -> None:
        """More of its text has come."""
        cell = self._cells[place]
        self._cells[place] = replace(cell, state="running", text=cell.text + piece, note="")

    def finish(self, place: Place, result: Generation | None, error: str | None = None) -> None:
        """It is over; with `error`, `result` is what had come."""
        state = "failed" if error is not None else "done"
        if result is not None and result.finish_reason == "interrupted":
            state = "stopped"
        self._cells[place] = Cell(
            state,
            result.text if result else "",
            result.summary() if result and not error else "",
            result,
            error,
        )

    @property
    def busy(self) -> bool:
        """Whether answers are still to come."""
        return any(cell.state in {"waiting", "running"} for cell in self._cells.values())

    def stop(self) -> None:
        """End all answers that are still to come."""
        for answer in self._answers.values():
            answer.stop()

    def labels(self) -> list[str]:
        """What tells the columns apart."""
        told = [asdict(column) for column in self.columns]
        differing = [name for name in Parameters.__slots__ if len({str(column[name]) for column in told}) > 1]
        return [
            ", ".join(_label(name, column[name]) for name in differing or ["model"]) or "the default model"
            for column in told
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One record for each answer: prompt, parameters, text, tokens, speed, how it ended, error."""
        return [self._record(place) for place in sorted(self._cells)]

    def _record(self, place: Place) -> dict[str, Any]:
        cell = self._cells[place]
        result = cell.result
        parameters = asdict(self.columns[place[1]])
        usage, timing = (result.usage, result.timing) if result else (None, None)
        return {
            "prompt": self.prompts[place[0]],
            **parameters,
            "model": result.model if result and result.model else parameters["model"],
            "text": cell.text,
            "state": cell.state,
            "finish_reason": result.finish_reason if result else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "tokens_per_second": timing.tokens_per_second if timing else None,
            "ttft_s": timing.ttft_s if timing else None,
            "error": cell.error,
        }


def _label(name: str, value: object) -> str:
    if name == "model":
        return str(value).rpartition("/")[2] if value else "the default model"
    return f"{name.replace('_', ' ')} {'default' if value is None else value}"
