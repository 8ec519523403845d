"""Tiny tokenizers of the two kinds, with a token for each byte or character and some longer ones."""

from __future__ import annotations

import string
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from samovar_server.engine.vocabulary import byte_alphabet

WORDS = ['{"', '":', '"}', "name", "true", "Ġtrue", "ĠĠ", "<tool_call>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "[TOOL_CALLS]"]


@cache
def byte_level(chat_template: str = CHAT_TEMPLATE) -> Any:
    """Byte-level BPE without merges; the special tokens come last, and <|im_end|> ends texts."""
    pieces = [*byte_alphabet(), *WORDS]
    tokenizer = Tokenizer(models.BPE({piece: token for token, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_special(tokenizer, chat_template)


@cache
def sentencepiece() -> Any:
    """As Llama 2's: spaces are ▁, characters outside the vocabulary are bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁true", *string.printable[:94]]
    vocabulary = {piece: token for token, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _with_special(tokenizer, CHAT_TEMPLATE)


@cache
def word_level() -> Any:
    """Whole words: of a kind that no grammar can be laid on."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))


def _with_special(tokenizer: Tokenizer, chat_template: str) -> Any:
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=chat_template
    )
