"""Grammars: JSON schemas and tool calls compiled for a tokenizer, and what they allow a sequence next.

By llguidance, not xgrammar. It depends on nothing (xgrammar pulls in Triton on Linux and tvm-ffi), one wheel
serves every Python, compiling takes milliseconds and a mask some twenty microseconds on a CPU, with bounds on
both; keywords it cannot hold are refused by name, and impossible schemas with the reason.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from torch import Tensor

from samovar_server.engine.token_bytes import token_bytes
from samovar_server.errors import InvalidRequest, SamovarError

CACHED_GRAMMARS = 64

WHITESPACE = r"[ ]|\n[ \t]{0,32}"
"""Between JSON's tokens. Bounded, since small models like to go on with spaces for ever."""


LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
"""Of one sequence's grammar: at 1 to 2 kB a state, 100 MB; and errors that do not repeat the text."""

_IS_ZERO = bytes([1]) + bytes(255)


def schema_for_grammar(schema: Mapping[str, Any], *, lenient: bool) -> dict[str, Any]:
    """`schema` with the compiler's options in it.

    `lenient` leaves what a grammar cannot hold (say, `not`) to the model instead of refusing it.
    """
    options = {"whitespace_pattern": WHITESPACE, "lenient": lenient, "coerce_one_of": lenient}
    return {**schema, "x-guidance": options}


def json_grammar(schema: Mapping[str, Any], *, lenient: bool) -> str:
    """The grammar of the JSON texts that `schema` allows."""
    grammar: str = LLMatcher.grammar_from_json_schema(schema_for_grammar(schema, lenient=lenient))
    return grammar


def lark_grammar(lark: str) -> str:
    """A grammar in llguidance's dialect of Lark."""
    grammar: str = LLMatcher.grammar_from_lark(lark)
    return grammar


def check_schema(schema: Mapping[str, Any], param: str, *, lenient: bool) -> None:
    """InvalidRequest when a schema is malformed, impossible, or has what no grammar can hold."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(
        json_grammar(schema, lenient=lenient), limits=LIMITS
    )
    if failed:
        raise refused_schema(messages[0], param)


def refused_schema(problem: str, param: str) -> InvalidRequest:
    """The refusal of a schema, with the compiler's reason."""
    reason = " ".join(problem.split())[:300].rstrip(".")
    hint = ""
    if reason.startswith("Unimplemented keys"):
        hint = " Remove them, or set strict: false to leave them to the model."
    elif "oneOf" in reason:
        reason, hint = "oneOf with overlapping alternatives", " Use anyOf."
    return InvalidRequest(f"{param}: the schema cannot be held to: {reason}.{hint}", param=param)


class GrammarMatcher:
    """What a grammar allows next, for one sequence.

    `ended` once the text is complete and nothing can follow. `failure` is set when the grammar became too
    complex to follow; from then on nothing is masked, and the sequence is to be dropped.
    """

    def __init__(self, matcher: LLMatcher, param: str) -> None:
        self._matcher = matcher
        self._param = param
        self.ended = False
        self.failure: SamovarError | None = None

    def mask(self, logits: Tensor) -> None:
        """Set the logits [vocabulary] of all tokens the grammar does not allow to -inf, in place."""
        if self.failure is not None:
            return
        allowed = self._matcher.compute_logit_bias()  # a byte a token, 0 where it is not allowed
        if self._failed():
            return
        size = logits.shape[-1]
        forbidden = bytearray(allowed[:size].translate(_IS_ZERO).ljust(size, b"\1"))
        mask = torch.frombuffer(forbidden, dtype=torch.bool)
        logits.masked_fill_(mask.to(logits.device), float("-inf"))

    def accept(self, token: int) -> None:
        """Go on past `token`, which the mask allowed."""
        if self.failure is not None:
            return
        self._matcher.consume_token(token)
        if not self._failed():
            self.ended = self._matcher.is_stopped()

    def _failed(self) -> bool:
        if not self._matcher.is_error():
            return False
        reason = self._matcher.get_error().partition("\n")[0][:200]
        self.failure = InvalidRequest(
            f"{self._param}: the grammar became too complex to follow ({reason}). Simplify the schema, its "
            "patterns most of all.",
            param=self._param,
        )
        return True


class Grammars:
    """Compiles grammars for one tokenizer, and keeps the latest. For one thread at a time.

    The first grammar takes longer, as the vocabulary is read then.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stop_tokens: Iterable[int]) -> None:
        """`vocabulary` is the model's, in tokens.

        `tokenizer` is used on this thread and the engine's, so nobody may change its state meanwhile.
        """
        self.tokenizer = tokenizer
        self._size = vocabulary
        self._stop_tokens = sorted(stop_tokens)
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._vocabulary: LLTokenizer | None = None

    def matchers(self, grammar: str, param: str, count: int = 1) -> list[GrammarMatcher]:
        """A matcher for each of `count` sequences. InvalidRequest, naming `param`, says what is wrong."""
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = LLMatcher(self._llguidance_vocabulary(), grammar, log_level=0, limits=LIMITS)
            if compiled.is_error():
                raise refused_schema(compiled.get_error(), param)
            self._compiled[grammar] = compiled
            if len(self._compiled) > CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return [GrammarMatcher(compiled.deep_copy(), param) for _ in range(count)]

    def _llguidance_vocabulary(self) -> LLTokenizer:
        if self._vocabulary is None:
            if not self._stop_tokens:
                raise InvalidRequest(
                    "This model has no token that ends a text, so it cannot be held to a grammar. Leave out "
                    "response_format and tools."
                )
            tokens, special = token_bytes(self.tokenizer)
            special |= set(self._stop_tokens)
            wrapper = TokenizerWrapper(_Vocabulary(self.tokenizer, tokens, special, self._stop_tokens[0]))
            # Slices, which speed up some masks, would cost five times the rest of the reading.
            self._vocabulary = LLTokenizer(
                wrapper,
                n_vocab=max(self._size, len(tokens)),
                eos_token=self._stop_tokens,
                slices=[],
            )
        return self._vocabulary


class _Vocabulary:
    """The view of a tokenizer that llguidance asks for."""

    def __init__(self, tokenizer: Any, tokens: list[bytes], special: frozenset[int], eos: int) -> None:
        self.tokens = tokens
        self.special_token_ids = sorted(special)
        self.eos_token_id = eos
        self.bos_token_id = None
        self._special = special
        self._encode = tokenizer.backend_tokenizer.encode
        self._longest = max(map(len, tokens))
        self._by_bytes = {text: token for token, text in enumerate(tokens) if token not in special}

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text that the grammar forces, as the model is used to see it where that works."""
        ids: list[int] = self._encode(text, add_special_tokens=False).ids
        if self._special.isdisjoint(ids) and b"".join(self.tokens[token] for token in ids) == text.encode():
            return ids
        # The text spells a special token, or the tokenizer puts a space before every text.
        return self._greedy(text.encode())

    def _greedy(self, text: bytes) -> list[int]:
        ids: list[int] = []
        while text:
            ends = range(min(len(text), self._longest), 0, -1)
            end = next(end for end in ends if text[:end] in self._by_bytes)
            ids.append(self._by_bytes[text[:end]])
            text = text[end:]
        return ids
