"""Single tokens as text and as bytes, for log-probabilities and /v1/tokenize."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from samovar_server.engine.text import UNFINISHED

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """The tokens of a transformers tokenizer; `size` is the model's, which may be larger."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._tokenizer = tokenizer
        self.size = size
        self.text = cache(self._text)

    def _text(self, token: int) -> str:
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return text

    def raw(self, token: int) -> list[int]:
        """The token's bytes. A token may be a part of a character, which its text cannot show."""
        text = self.text(token)
        if UNFINISHED not in text:
            return list(text.encode())
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # the model's vocabulary is padded beyond the tokenizer's
            return []
        if match := _BYTE_TOKEN.fullmatch(piece):  # SentencePiece with byte fallback
            return [int(match[1], 16)]
        alphabet = byte_alphabet()
        return [alphabet[character] for character in piece if character in alphabet]


@cache
def byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE (GPT-2) writes bytes as, back to the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
