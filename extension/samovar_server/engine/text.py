"""Between text and tokens: prompts from chats, text from a growing output, stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from samovar_server.errors import InvalidRequest

UNFINISHED = "\ufffd"
"""What tokenizers decode incomplete UTF-8 to."""


class Decoder(Protocol):
    """The part of a transformers tokenizer that turns ids into text."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = ...) -> str:
        """The text of `token_ids`."""


def render_chat(
    tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
) -> list[int]:
    """The prompt's token ids by the model's own chat template, ready for the assistant's turn.

    `tools` are for templates that know them.

    InvalidRequest when the model has no template, or its template refuses these messages.
    """
    if not tokenizer.chat_template:
        raise InvalidRequest(
            "This model has no chat template, so it cannot take 'messages'. Use a chat (instruct) model.",
            param="messages",
        )
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise InvalidRequest(
            f"The model's chat template refuses these messages: {error}.", param="messages"
        ) from None
    # The template writes the special tokens itself.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


class Detokenizer:
    """Decodes a growing list of tokens, giving out only text that later tokens cannot change.

    A token may end in the middle of a UTF-8 character, and how a token is spaced can depend on the one
    before it; so the tokens since the last clean cut are decoded together with a few before it, as
    text-generation-inference and vLLM do.
    """

    def __init__(self, decoder: Decoder, *, show_special: bool = False) -> None:
        self._decoder = decoder
        self._skip_special = not show_special
        self._ids: list[int] = []
        self._prefix = 0
        self._read = 0

    def add(self, token: int) -> str:
        """The text that `token` completes; "" while a character is unfinished."""
        self._ids.append(token)
        shown, now = (
            self._decode(self._ids[self._prefix : self._read]),
            self._decode(self._ids[self._prefix :]),
        )
        if len(now) <= len(shown) or now.endswith(UNFINISHED):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return now[len(shown) :]

    def flush(self) -> str:
        """What is left at the end: incomplete characters come as U+FFFD."""
        shown = self._decode(self._ids[self._prefix : self._read])
        rest = self._decode(self._ids[self._prefix :])[len(shown) :]
        self._prefix = self._read = len(self._ids)
        return rest

    def _decode(self, ids: list[int]) -> str:
        return self._decoder.decode(ids, skip_special_tokens=self._skip_special)


class StopStrings:
    """Finds the first stop string in a stream of text, wherever the pieces are cut."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, text: str, *, may_stop: bool = True) -> str:
        """The text that is safe to show. The stop string and all behind it never are.

        Where it may not stop, a stop string that `text` completes is none.
        """
        if not self._stops:
            return text
        held, text = len(self._held), self._held + text
        places = [text.find(stop, max(0, held - len(stop) + 1)) for stop in self._stops]
        hits = [place for place in places if place >= 0]
        if hits and may_stop:
            self.found, self._held = True, ""
            return text[: min(hits)]
        keep = max(overlap(text, stop) for stop in self._stops)
        safe = len(text) - keep
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """What was held back in case a stop string had begun."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """The longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0


class TextStream:
    """A sequence's output as text: detokenised, cut at the first stop string behind `min_tokens` tokens.

    As in vLLM, it is the token that completes a stop string which has to come behind them.
    """

    def __init__(
        self, decoder: Decoder, stops: Sequence[str], *, show_special: bool = False, min_tokens: int = 0
    ) -> None:
        self._detokenizer = Detokenizer(decoder, show_special=show_special)
        self._stops = StopStrings(stops)
        self._owed = min_tokens

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self._stops.found

    def add(self, token: int) -> str:
        """Text that can be shown after `token`."""
        self._owed -= 1
        return self._stops.add(self._detokenizer.add(token), may_stop=self._owed < 0)

    def flush(self) -> str:
        """The rest of the text, once no token follows."""
        rest = self._stops.add(self._detokenizer.flush(), may_stop=self._owed < 0)
        return rest + self._stops.flush()
