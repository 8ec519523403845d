"""What a generation gave: the text, and what is known of how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from samovar.display import as_html
from samovar.errors import BadAnswer
from samovar.records import TokenScore

if TYPE_CHECKING:
    from IPython.lib.pretty import RepresentationPrinter

FinishReason = Literal["stop", "length", "tool_calls", "interrupted", "error"]
Bundle = tuple[dict[str, Any], dict[str, Any]]
"""What IPython takes of a `_repr_mimebundle_`: data and metadata, each by MIME type or name."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, measured here, so that they hold the way to the server and back.

    `load_s` is the wait until the model was in memory (next to nothing when it already was), `queue_s` that
    from sending the prompt until the model took it up (None when it did not), `ttft_s` that from sending
    the prompt to the first text (None when none came) and `total_s` all of it. `tokens_per_second` counts
    from the first token to the last; None without usage or with fewer than two tokens.
    """

    load_s: float
    ttft_s: float | None
    total_s: float
    tokens_per_second: float | None
    queue_s: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an answer came from: the copy of the model that gave it, and what ran it.

    `revision` is the commit of the model on the Hugging Face Hub; None for a model in a plain folder.
    `versions` are those of the client, and of the server and what it runs on.
    """

    revision: str | None = None
    backend: str = ""
    device: str = ""
    dtype: str = ""
    quantization: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several answers to the same prompt."""

    text: str
    finish_reason: FinishReason
    logprobs: Sequence[TokenScore] | None = None


@dataclass(frozen=True)
class Generation:
    """A generated text; `str()` of it is the text.

    `finish_reason` is "stop" (the model ended), "length" (max_tokens or the context window did),
    "interrupted" (you did) or "error" (the answer broke off). `usage` is None unless the answer
    came to its end. `request` is what was asked, the seed included: `samovar.chat(**result.request)`
    asks it again. `logprobs` is None unless they were asked for, and `more` has the other answers where
    `n` asked for several.
    """

    text: str
    finish_reason: FinishReason
    model: str
    usage: Usage | None
    timing: Timing
    request: Mapping[str, Any]
    logprobs: Sequence[TokenScore] | None = field(default=None, repr=False)
    more: Sequence[Choice] = field(default=(), repr=False)
    origin: Origin = field(default_factory=Origin, repr=False)
    schema_class: Any = field(default=None, repr=False, compare=False)
    """The pydantic class that the answer was held to, if it was one."""
    shown_in_cell: int | None = field(default=None, repr=False, compare=False)
    """The number of the cell that streamed the text already, so that it is not shown twice there."""

    @property
    def choices(self) -> list[Choice]:
        """All answers: this one, and those in `more`."""
        return [Choice(self.text, self.finish_reason, self.logprobs), *self.more]

    @property
    def json(self) -> Any:
        """The text, parsed as JSON. BadAnswer when it is none, as when it was cut off."""
        return parse_json(self.text, self.finish_reason)

    @property
    def parsed(self) -> Any:
        """`json`, as an instance of the pydantic class where one was given as schema."""
        if self.schema_class is None:
            return self.json
        return self.schema_class.model_validate(self.json)

    def metadata(self) -> dict[str, Any]:
        """What a notebook is to remember: model, revision, parameters with the seed, versions, timing."""
        request = {name: value for name, value in self.request.items() if name != "messages"}
        return {
            "model": self.model,
            **asdict(self.origin),
            "parameters": request,
            "finish_reason": self.finish_reason,
            "usage": asdict(self.usage) if self.usage else None,
            "timing": asdict(self.timing),
        }

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
        if timing.queue_s is not None and timing.queue_s >= WORTH_TELLING_SECONDS:
            parts.append(f"queue {timing.queue_s:.1f} s")
        if timing.load_s >= WORTH_TELLING_SECONDS:
            parts.append(f"load {timing.load_s:.1f} s")
        if self.finish_reason != "stop":
            parts.append(ENDINGS[self.finish_reason])
        parts.append(self.model.rpartition("/")[2])
        return " · ".join(parts)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Bundle:
        # The texts are made by the methods below; this one adds what the notebook stores beside them.
        return {}, {"samovar": self.metadata()}

    def _repr_html_(self) -> str:
        summary = summary_html(self.summary())
        if is_on_screen(self.shown_in_cell):
            return summary
        return "".join(as_html(text)["text/html"] for text in self.labelled()) + summary

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        if not is_on_screen(self.shown_in_cell):
            printer.text("".join(f"{text}\n\n" for text in self.labelled()))
        printer.text(self.summary())

    def labelled(self) -> list[str]:
        """The texts; several of them numbered."""
        if not self.more:
            return [self.text]
        return [f"[{number}] {choice.text}" for number, choice in enumerate(self.choices, 1)]


def parse_json(text: str, finish_reason: FinishReason = "stop") -> Any:
    """An answer's `text` as JSON. BadAnswer when it is none, as when it was cut off."""
    try:
        return json.loads(text)
    except ValueError:
        why = ENDINGS.get(finish_reason, "the model ended it so")
        told = f"The answer is not whole JSON ({why}). Raise max_tokens, or set a schema."
        raise BadAnswer(told) from None


def is_on_screen(cell: int | None) -> bool:
    """Whether `cell` is the number of the cell that runs now, in which the text has been streamed already."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell is not None and cell == shell.execution_count


def summary_html(text: str) -> str:
    """A line below an answer."""
    return f'<div style="padding: 2px 5px; font-size: smaller; opacity: 0.65">{escape(text)}</div>'


WORTH_TELLING_SECONDS = 0.05
"""A shorter wait is that of asking whether the model is there and free."""

ENDINGS: Mapping[FinishReason, str] = {
    "length": "cut off at the token limit",
    "tool_calls": "calls a tool",
    "interrupted": "interrupted",
    "error": "broken off",
}
