"""Several answers to one prompt, of several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, overload

from samovar.dataframes import dataframe
from samovar.result import Bundle, Generation, is_on_screen, summary_html

if TYPE_CHECKING:
    import pandas as pd
    from IPython.lib.pretty import RepresentationPrinter


@dataclass(frozen=True)
class Answers(Sequence[Generation]):
    """The results of `%%generate` with several models, in the order in which they were named."""

    results: Sequence[Generation]
    shown_in_cell: int | None = field(default=None, repr=False, compare=False)

    @overload
    def __getitem__(self, index: int) -> Generation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Generation]: ...
    def __getitem__(self, index: int | slice) -> Generation | Sequence[Generation]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        return f"<Answers of {', '.join(result.model for result in self)}>"

    @property
    def texts(self) -> list[str]:
        """The text of each."""
        return [result.text for result in self]

    def rows(self) -> list[dict[str, Any]]:
        """One record for each: model, text, how it ended, tokens, speed."""
        return [
            {
                "model": result.model,
                "text": result.text,
                "finish_reason": result.finish_reason,
                "completion_tokens": result.usage.completion_tokens if result.usage else None,
                "tokens_per_second": result.timing.tokens_per_second,
                "ttft_s": result.timing.ttft_s,
            }
            for result in self
        ]

    def dataframe(self) -> pd.DataFrame:
        """`rows` as a pandas DataFrame."""
        return dataframe(self.rows())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Bundle:
        return {}, {"samovar": [result.metadata() for result in self]}

    def _repr_html_(self) -> str:
        if is_on_screen(self.shown_in_cell):
            return summary_html(self._summary())
        return columns([(result.model, "\n\n".join(result.labelled()), result.summary()) for result in self])

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        if not is_on_screen(self.shown_in_cell):
            printer.text("".join(f"{result.model}:\n{result.text}\n\n" for result in self))
        printer.text(self._summary())

    def _summary(self) -> str:
        quickest = max(self, key=lambda result: result.timing.tokens_per_second or 0)
        speed = quickest.timing.tokens_per_second
        fastest = f" · fastest: {quickest.model.rpartition('/')[2]}, {speed:.1f} tok/s" if speed else ""
        return f"{len(self)} answers{fastest}"


COLUMN = "min-width: 0; border-left: 2px solid rgba(128, 128, 128, 0.4); padding-left: 8px"
GRID = "display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 12px"
TEXT = "margin: 4px 0; white-space: pre-wrap; word-break: normal"


def columns(parts: Sequence[tuple[str, str, str]]) -> str:
    """Texts with titles and notes as HTML: side by side, or below each other where it is narrow."""
    cells = "".join(
        f'<div style="{COLUMN}"><b>{escape(title)}</b><pre style="{TEXT}">{escape(text)}</pre>'
        f"{summary_html(note) if note else ''}</div>"
        for title, text, note in parts
    )
    return f'<div style="{GRID}">{cells}</div>'
