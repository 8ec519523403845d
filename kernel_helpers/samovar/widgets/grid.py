"""Answers to every prompt under every setting. The state of the comparison; free of ipywidgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from samovar.result import Generation
from samovar.widgets.answer import Answer
from samovar.widgets.settings import Setting

Place = tuple[int, int]
"""Row and column: which prompt, under which setting."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer. `state` says how far it is: waiting, running, done, stopped, failed."""

    state: str = "waiting"
    text: str = ""
    note: str = ""
    result: Generation | None = None
    error: str | None = None


class Grid:
    """A row for each prompt, a column for each setting. Not thread-safe."""

    def __init__(self) -> None:
        self.prompts: Sequence[str] = ()
        self.columns: Sequence[Setting] = ()
        self._cells: dict[Place, Cell] = {}
        self._answers: dict[Place, Answer] = {}

    def begin(self, prompts: Sequence[str], columns: Sequence[Setting]) -> None:
        """Forget all; every answer is to come. BadOption where a setting has a wrong value."""
        answers = {
            (row, column): Answer(columns[column].request(prompts[row]))
            for row, column in product(range(len(prompts)), range(len(columns)))
        }
        self.prompts, self.columns, self._answers = prompts, columns, answers
        self._cells = dict.fromkeys(answers, Cell())

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
        several = len({column.model for column in self.columns}) > 1
        return [_label(column, with_model=several) for column in self.columns]

    def rows(self) -> list[dict[str, Any]]:
        """One record for each answer: prompt, setting, text, tokens, speed, how it ended, error."""
        return [self._record(place) for place in sorted(self._cells)]

    def _record(self, place: Place) -> dict[str, Any]:
        cell, column = self._cells[place], self.columns[place[1]]
        result = cell.result
        usage, timing = (result.usage, result.timing) if result else (None, None)
        asked = dict.fromkeys(name for each in self.columns for name in each.parameters)
        return {
            "prompt": self.prompts[place[0]],
            "setting": column.line,
            **{name: column.parameters.get(name) for name in asked},
            "model": result.model if result and result.model else column.model,
            "seed": result.request.get("seed") if result else column.parameters.get("seed"),
            "text": cell.text,
            "state": cell.state,
            "finish_reason": result.finish_reason if result else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "tokens_per_second": timing.tokens_per_second if timing else None,
            "ttft_s": timing.ttft_s if timing else None,
            "error": cell.error,
        }


def _label(column: Setting, *, with_model: bool) -> str:
    model = column.model.rpartition("/")[2] if column.model else "the default model"
    return " ".join([model, column.line]).strip() if with_model else column.line or model
