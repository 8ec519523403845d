"""From a stream of text that obeys the grammar of `tool_grammar` to content and tool calls."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from enum import Enum, auto

from samovar_server.engine.text import overlap
from samovar_server.engine.tool_formats import ToolFormat

_ID_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Content:
    """Text outside calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """The `index`-th call, and whom it calls."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments, JSON text, of the `index`-th call."""

    index: int
    text: str


Piece = Content | CallBegins | Arguments


class _At(Enum):
    CONTENT = auto()
    BEFORE_NAME = auto()
    ARGUMENTS = auto()


class ToolParser:
    """Feeds on text in any pieces; what it gives out can be shown at once.

    A text that ends in the middle of a call (at max_tokens, say) leaves the call as far as it came.
    """

    def __init__(self, form: ToolFormat, *, either: bool = False) -> None:
        """`either`: an answer is calls or content, never calls behind content."""
        self._form = form
        self._either = either or not form.trigger
        self._at = _At.CONTENT
        self._held = ""
        self._calls = 0
        self._is_text = False
        self._json = _ObjectEnd()

    @property
    def called(self) -> bool:
        """Whether there were calls, the last of which is whole."""
        return self._calls > 0 and self._at is not _At.ARGUMENTS

    def add(self, text: str) -> list[Piece]:
        """What `text` adds."""
        self._held += text
        pieces: list[Piece] = []
        while (step := self._step()) is not None:
            pieces += step
        return [piece for piece in pieces if not isinstance(piece, Content) or piece.text]

    def flush(self) -> list[Piece]:
        """What was held back in case a trigger had begun."""
        rest, self._held = self._held, ""
        return [Content(rest)] if rest and self._at is _At.CONTENT else []

    def _step(self) -> list[Piece] | None:
        """Work on what is held; None when more text is needed."""
        if not self._held:
            return None
        if self._at is _At.CONTENT:
            return self._content()
        return self._name() if self._at is _At.BEFORE_NAME else self._arguments()

    def _content(self) -> list[Piece] | None:
        trigger = self._form.trigger
        if self._either:
            return self._text_or_call()
        before, found, after = self._held.partition(trigger)
        if found:
            self._held, self._at = after, _At.BEFORE_NAME
            return [Content(before)]
        safe = len(self._held) - overlap(self._held, trigger)
        if safe == 0:
            return None
        content, self._held = self._held[:safe], self._held[safe:]
        return [Content(content)]

    def _text_or_call(self) -> list[Piece] | None:
        mark = self._form.trigger or self._form.head[0]
        if not self._is_text and self._held.startswith(mark):
            self._at = _At.BEFORE_NAME
            return []
        if not self._is_text and mark.startswith(self._held):
            return None
        self._is_text = True
        content, self._held = self._held, ""
        return [Content(content)]

    def _name(self) -> list[Piece] | None:
        _, found, rest = self._held.partition(self._form.head)
        name, complete, rest = rest.partition(self._form.middle)
        if not found or not complete:
            return None
        self._held, self._at, self._json = rest, _At.ARGUMENTS, _ObjectEnd()
        self._calls += 1
        return [CallBegins(self._calls - 1, self._new_id(), name)]

    def _arguments(self) -> list[Piece]:
        end = self._json.find(self._held)
        if end is not None:
            self._at = _At.BEFORE_NAME
        arguments, self._held = self._held[:end], self._held[len(self._held) if end is None else end :]
        return [Arguments(self._calls - 1, arguments)]

    def _new_id(self) -> str:
        letters = (secrets.choice(_ID_ALPHABET) for _ in range(self._form.id_length))
        return self._form.id_prefix + "".join(letters)


class _ObjectEnd:
    """Finds where a JSON object ends, in pieces of its text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int | None:
        """The position behind the object's last brace; None when it is not in `text`."""
        for position, character in enumerate(text):
            if self._in_string:
                self._read_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return position + 1
        return None

    def _read_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
