"""Every token of a vocabulary as bytes, which is what a grammar reads.

llguidance can read a serialised Hugging Face tokenizer itself, but holds Python's lock for a second while it
does (49,000 tokens; three for 150,000), and every stream would stand still. From bytes it takes a tenth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from samovar_server.engine.vocabulary import byte_alphabet
from samovar_server.errors import InvalidRequest

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

SPACE = "\u2581"
"""How SentencePiece writes a space."""


def token_bytes(tokenizer: Any) -> tuple[list[bytes], frozenset[int]]:
    """The bytes of each token of a transformers tokenizer, and which tokens are special.

    InvalidRequest where the tokenizer is of a kind whose tokens are not pieces of text.
    """
    spell = _speller(tokenizer)
    added = tokenizer.added_tokens_decoder
    vocabulary = tokenizer.get_vocab()
    tokens = [b""] * (max(vocabulary.values()) + 1)  # some ids may stand for nothing
    for piece, token in vocabulary.items():
        spelled = added[token].content.encode() if token in added else spell(piece)
        # No text holds the byte 0xFF, with which llguidance marks special tokens.
        tokens[token] = b"" if b"\xff" in spelled else spelled
    return tokens, frozenset(token for token, entry in added.items() if entry.special)


def _speller(tokenizer: Any) -> Callable[[str], bytes]:
    """By the tokenizer's decoder: byte-level BPE, or SentencePiece with a token for every byte."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    kinds = _kinds(json.loads(decoder.__getstate__())) if decoder is not None else set()
    if "ByteLevel" in kinds:
        return _spell_byte_level
    if "ByteFallback" in kinds:
        return _spell_sentencepiece
    raise InvalidRequest(
        "This model's tokenizer is of a kind that cannot be held to a grammar. Leave out response_format "
        "and tools."
    )


def _kinds(decoder: dict[str, Any]) -> set[str]:
    return {decoder["type"]}.union(*(_kinds(part) for part in decoder.get("decoders", [])))


def _spell_byte_level(piece: str) -> bytes:
    alphabet = byte_alphabet()
    return bytes(alphabet[character] for character in piece if character in alphabet)


def _spell_sentencepiece(piece: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace(SPACE, " ").encode()
