"""Where in a text its tokens begin, for the log-probabilities of completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from samovar_server.engine.text import Decoder, Detokenizer


class TextOffsets:
    """Offsets in characters, as a text grows token by token from `start` on.

    Tokens that are parts of one character all begin where it does. Special tokens count when they are shown.
    """

    def __init__(self, decoder: Decoder, start: int = 0, *, show_special: bool = False) -> None:
        self.end = start
        self._detokenizer = Detokenizer(decoder, show_special=show_special)

    def add(self, token: int) -> int:
        """Where `token` begins."""
        begin = self.end
        self.end += len(self._detokenizer.add(token))
        return begin


def prompt_offsets(tokenizer: Any, ids: Sequence[int], text: str) -> list[int]:
    """Where the tokens of a prompt begin in its `text`, which lacks what the tokenizer put around it."""
    special = set(tokenizer.all_special_ids)
    offsets = TextOffsets(tokenizer, show_special=True)
    places: list[int] = []
    for token in ids:
        added = token in special and not text.startswith(tokenizer.decode([token]), offsets.end)
        places.append(offsets.end if added else offsets.add(token))
    return places
