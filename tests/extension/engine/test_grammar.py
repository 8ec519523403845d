"""Grammars on tiny tokenizers: what a mask lets through is what the schema allows, and ends when it must."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance import LLParserLimits, LLTokenizer
from transformers import AutoTokenizer

from samovar_server.engine import grammar
from samovar_server.engine.grammar import GrammarMatcher, Grammars, check_schema, json_grammar
from samovar_server.engine.token_bytes import token_bytes
from samovar_server.errors import InvalidRequest
from tests.extension.engine.tokenizers import SPECIAL, byte_level, sentencepiece, word_level

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["tea", "smoke"]}, "maxItems": 3},
        "mood": {"anyOf": [{"const": "good"}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "mood"],
    "additionalProperties": False,
}


def grammars(tokenizer: Any, extra: int = 0) -> Grammars:
    return Grammars(tokenizer, len(tokenizer) + extra, {tokenizer.eos_token_id})


def matcher(tokenizer: Any, schema: Any, extra: int = 0, *, lenient: bool = False) -> GrammarMatcher:
    (one,) = grammars(tokenizer, extra).matchers(json_grammar(schema, lenient=lenient), "response_format")
    return one


def walk(one: GrammarMatcher, tokenizer: Any, rng: random.Random, limit: int = 2000) -> str:
    """A random text of the grammar, by masks alone."""
    tokens: list[int] = []
    while not one.ended:
        assert len(tokens) < limit
        logits = torch.zeros(len(tokenizer))
        one.mask(logits)
        token = rng.choice(torch.nonzero(logits == 0).flatten().tolist())
        one.accept(token)
        if token == tokenizer.eos_token_id:
            assert one.ended
        else:
            tokens.append(token)
    spelled, _ = token_bytes(tokenizer)
    return b"".join(spelled[token] for token in tokens).decode()


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
@pytest.mark.parametrize("seed", range(10))
def test_random_texts_of_a_schema_obey_it(make: Any, seed: int) -> None:
    tokenizer = make()
    value = json.loads(walk(matcher(tokenizer, PERSON), tokenizer, random.Random(seed)))
    assert list(value) == PERSON["required"]
    assert len(value["name"]) <= 12
    assert 0 <= value["age"] <= 150
    assert set(value["tags"]) <= {"tea", "smoke"}
    assert len(value["tags"]) <= 3
    assert value["mood"] in ("good", None)


def test_the_end_comes_with_the_last_brace_and_not_before() -> None:
    tokenizer = byte_level()
    one = matcher(tokenizer, {"type": "object"})
    *body, last = tokenizer('{"a": {"b": 1} }', add_special_tokens=False)["input_ids"]
    for token in body:
        logits = torch.zeros(len(tokenizer))
        one.mask(logits)
        assert logits[token] == 0
        assert logits[tokenizer.eos_token_id] == -torch.inf
        one.accept(token)
        assert not one.ended
    one.accept(last)
    assert one.ended
    assert one.failure is None


def test_special_tokens_and_the_padding_of_the_vocabulary_are_never_allowed() -> None:
    tokenizer = byte_level()
    one = matcher(tokenizer, {"type": "string"}, extra=7)
    one.accept(tokenizer.convert_tokens_to_ids('"'))
    logits = torch.zeros(len(tokenizer) + 7)
    one.mask(logits)
    special = tokenizer.convert_tokens_to_ids(SPECIAL)
    assert torch.isinf(logits[special]).all()
    assert torch.isinf(logits[len(tokenizer) :]).all()
    assert logits[tokenizer.convert_tokens_to_ids("name")] == 0


def test_whitespace_cannot_go_on_for_ever() -> None:
    tokenizer = byte_level()
    one = matcher(tokenizer, {"type": "object"})
    space, newline = tokenizer("\n ", add_special_tokens=False)["input_ids"][::-1]
    for token in [tokenizer.convert_tokens_to_ids("{"), newline, *[space] * 32]:
        one.accept(token)
    logits = torch.zeros(len(tokenizer))
    one.mask(logits)
    assert torch.isinf(logits[[space, newline]]).all()
    assert one.failure is None


def test_matchers_of_one_grammar_do_not_know_of_each_other() -> None:
    tokenizer = byte_level()
    choice = json_grammar({"enum": ["ab", "ac"]}, lenient=False)
    first, second = grammars(tokenizer).matchers(choice, "response_format", 2)
    for token in tokenizer('"a', add_special_tokens=False)["input_ids"]:
        first.accept(token)
    logits = torch.zeros(len(tokenizer))
    second.mask(logits)
    allowed = torch.nonzero(logits == 0).flatten().tolist()
    assert allowed == [tokenizer.convert_tokens_to_ids('"')]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 2}, "greater than"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a' is unsatisfiable"),
        ({"type": "wishful"}, "Invalid type: wishful"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "string", "format": "tea"}, "Unknown format: tea"),
        ({"$ref": "#/$defs/gone"}, "does not exist"),
        ({"$ref": "https://example.com/schema.json"}, "not present"),
        ({"not": {"type": "string"}}, '["not"]. Remove them, or set strict: false'),
        ({"oneOf": [{"type": "object"}, {"type": "object", "properties": {"a": {}}}]}, "Use anyOf"),
    ],
)
def test_a_schema_that_cannot_be_held_is_refused_with_the_reason(schema: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_schema(schema, "response_format.json_schema.schema", lenient=False)
    assert refused.value.param == "response_format.json_schema.schema"
    assert reason in refused.value.message
    with pytest.raises(InvalidRequest) as refused:
        matcher(byte_level(), schema)
    assert reason in refused.value.message


@pytest.mark.parametrize("schema", [{"not": {"type": "string"}}, {"type": "string", "format": "tea"}])
def test_lenient_leaves_to_the_model_what_no_grammar_holds(schema: Any) -> None:
    check_schema(schema, "schema", lenient=True)


def test_a_schema_cannot_bring_options_of_its_own() -> None:
    with pytest.raises(InvalidRequest, match="not"):
        check_schema({"not": {}, "x-guidance": {"lenient": True}}, "schema", lenient=False)


def test_a_grammar_that_grows_too_complex_fails_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "LIMITS", LLParserLimits(max_lexer_states=500, verbose_errors=False))
    tokenizer = byte_level()
    one = matcher(tokenizer, {"type": "string", "pattern": "^(.*a){400}.{900}$"})
    quote, *text = tokenizer('"' + "bca" * 400, add_special_tokens=False)["input_ids"]
    one.accept(quote)
    for token in text:
        one.mask(torch.zeros(len(tokenizer)))
        one.accept(token)
        if one.failure is not None:
            break
    assert one.failure is not None
    assert one.failure.param == "response_format"
    assert "too complex" in one.failure.message
    assert "bca" not in one.failure.message
    logits = torch.zeros(len(tokenizer))
    one.mask(logits)
    assert not torch.isinf(logits).any()
    assert not one.ended


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    tokenizer = word_level()
    with pytest.raises(InvalidRequest, match="cannot be held to a grammar"):
        Grammars(tokenizer, 1, {0}).matchers(json_grammar({}, lenient=False), "tools")


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_token_bytes_are_what_llguidance_reads_from_the_tokenizer_itself(make: Any) -> None:
    assert_same_bytes(make())


@pytest.mark.real
def test_token_bytes_of_a_real_tokenizer(demo_model: Path) -> None:
    assert_same_bytes(AutoTokenizer.from_pretrained(demo_model))


def assert_same_bytes(tokenizer: Any) -> None:
    theirs = LLTokenizer(tokenizer.backend_tokenizer.to_str(), eos_token=[tokenizer.eos_token_id])
    ours, special = token_bytes(tokenizer)
    assert ours == [theirs.decode_bytes([token]) for token in range(len(tokenizer))]
    named = [token for token in range(len(tokenizer)) if theirs.is_special_token(token)]
    assert sorted(special) == [token for token in named if ours[token]]  # the byte 0xFF is marked too


def test_a_forced_text_that_spells_a_special_token_is_written_in_letters() -> None:
    tokenizer = byte_level()
    assert walk(matcher(tokenizer, {"const": "<|im_end|>"}), tokenizer, random.Random(0)) == '"<|im_end|>"'


def test_a_model_without_an_end_of_text_is_refused() -> None:
    tokenizer = byte_level()
    with pytest.raises(InvalidRequest, match="ends a text"):
        Grammars(tokenizer, len(tokenizer), set()).matchers(json_grammar({}, lenient=False), "tools")
