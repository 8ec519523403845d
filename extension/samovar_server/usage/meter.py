"""Counts the tokens of one request from what its worker answers, without parsing what streams by."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from samovar_server.usage.records import Tokens

_USAGE = re.compile(rb'"usage":\s*(?=\{)')
# No text of an answer can look like these: in a JSON string quotes are escaped.
_NO_CHOICES = re.compile(rb'"choices":\s*\[\]')
_EVENT = b'data: {"'

BYTES_PER_TOKEN = 4
"""Of a request's body, by which its prompt is judged until the worker has counted it."""


def estimated_prompt(body: bytes) -> int:
    """About as many tokens as the prompt in `body` has."""
    return len(body) // BYTES_PER_TOKEN


def told_usage(answer: bytes) -> Tokens | None:
    """The counts in an answer or in events; None when there are none."""
    found = _USAGE.search(answer)
    if found is None:
        return None
    usage, _ = json.JSONDecoder().raw_decode(answer[found.end() :].decode(errors="replace"))
    return Tokens(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))


TOGETHER = 16
"""Tokens of a stream that are told together: telling each would take longer than counting it."""


class Meter:
    """What one request has taken so far: estimates, put right by the worker's own counts at the end.

    It begins with about as many tokens as the prompt has, and `tell` hears what is to be added to them, which
    may be negative; the last of it when `settle` is called.
    """

    def __init__(self, prompt_tokens: int, tell: Callable[[Tokens], None]) -> None:
        self.tokens = Tokens(prompt_tokens)
        """All that has been told."""
        self._tell = tell
        self._untold = 0

    def events(self, events: bytes, *, wants_usage: bool) -> bytes:
        """Count whole events of a stream, one token for each; returns those that the client is to get.

        The last one's counts are for us; the client gets it if it asked for it itself.
        """
        told = told_usage(events)
        if told is None:
            self._untold += events.count(_EVENT)
            if self._untold >= TOGETHER:
                self.settle()
            return events
        self._set(told)
        return events if wants_usage else _without_usage(events)

    def answer(self, body: bytes) -> None:
        """Count an answer in one piece; one without counts is an error, and takes nothing."""
        self._set(told_usage(body) or Tokens())

    def settle(self) -> None:
        """Tell what has been counted and not told."""
        self._set(Tokens(self.tokens.prompt, self.tokens.output + self._untold))

    def _set(self, tokens: Tokens) -> None:
        self._untold = 0
        added, self.tokens = tokens - self.tokens, tokens
        if added.prompt or added.output:
            self._tell(added)


def _without_usage(events: bytes) -> bytes:
    kept = [
        event for event in events.split(b"\n\n") if not (_USAGE.search(event) and _NO_CHOICES.search(event))
    ]
    return b"\n\n".join(kept)
