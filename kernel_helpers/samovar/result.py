"""What a generation gave: the text, and what is known of how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from samovar.display import as_html

if TYPE_CHECKING:
    from IPython.lib.pretty import RepresentationPrinter

FinishReason = Literal["stop", "length", "tool_calls", "interrupted", "error"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, measured here, so that they hold the way to the server and back.

    `load_s` is the wait until the model was in memory (next to nothing when it already was), `ttft_s`
    the time from sending the prompt to the first text (None when none came) and `total_s` all of it.
    `tokens_per_second` counts from the first token to the last; None without usage or with fewer
    than two tokens.
    """

    load_s: float
    ttft_s: float | None
    total_s: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class Generation:
    """A generated text; `str()` of it is the text.

    `finish_reason` is "stop" (the model ended), "length" (max_tokens or the context window did),
    "interrupted" (you did) or "error" (the answer broke off). `usage` is None unless the answer
    came to its end. `request` is what was sent, enough to send it again.
    """

    text: str
    finish_reason: FinishReason
    model: str
    usage: Usage | None
    timing: Timing
    request: Mapping[str, Any]
    shown_in_cell: int | None = field(default=None, repr=False, compare=False)
    """The number of the cell that streamed the text already, so that it is not shown twice there."""

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        start = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        return f"<Generation {start!r}: {self.summary()}>"

    def summary(self) -> str:
        """One line: tokens, speed, waits, and how it ended if not by itself."""
        timing = self.timing
        parts = []
        if self.usage is not None:
            parts.append(f"{self.usage.completion_tokens} tokens")
        if timing.tokens_per_second is not None:
            parts.append(f"{timing.tokens_per_second:.1f} tok/s")
        if timing.ttft_s is not None:
            parts.append(f"first token {timing.ttft_s:.2f} s")
        if timing.load_s >= WORTH_TELLING_SECONDS:
            parts.append(f"load {timing.load_s:.1f} s")
        if self.finish_reason != "stop":
            parts.append(ENDINGS[self.finish_reason])
        parts.append(self.model.rpartition("/")[2])
        return " · ".join(parts)

    def _repr_html_(self) -> str:
        summary = (
            f'<div style="padding: 2px 5px; font-size: smaller; opacity: 0.65">{escape(self.summary())}</div>'
        )
        if self._is_on_screen():
            return summary
        return as_html(self.text)["text/html"] + summary

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        if not self._is_on_screen():
            printer.text(f"{self.text}\n\n")
        printer.text(self.summary())

    def _is_on_screen(self) -> bool:
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        return shell is not None and self.shown_in_cell == shell.execution_count


WORTH_TELLING_SECONDS = 0.05
"""A shorter wait for the model is that of asking whether it is there."""

ENDINGS: Mapping[FinishReason, str] = {
    "length": "cut off at the token limit",
    "tool_calls": "calls a tool",
    "interrupted": "interrupted",
    "error": "broken off",
}
