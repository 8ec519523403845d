"""Random texts of the tools' grammars, cut anywhere, come out as the calls they hold."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
import torch

from samovar_server.engine.grammar import Grammars, lark_grammar, schema_for_grammar
from samovar_server.engine.token_bytes import token_bytes
from samovar_server.engine.tool_formats import GENERIC, HERMES, LLAMA, MISTRAL, ToolFormat, choose_format
from samovar_server.engine.tool_grammar import CallableTool, tool_grammar
from samovar_server.engine.tool_parser import Arguments, CallBegins, Content, ToolParser
from tests.extension.engine.tokenizers import byte_level

SCHEMAS: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", 'Ro}m"e{', "<tool_call>"]}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "stop": {"type": "object", "properties": {}, "additionalProperties": False},
}


def tools() -> list[CallableTool]:
    return [CallableTool(name, schema_for_grammar(schema, lenient=False)) for name, schema in SCHEMAS.items()]


def random_text(form: ToolFormat, seed: int, **options: Any) -> tuple[str, bool]:
    """A text of the grammar, and whether it came to an end."""
    tokenizer = byte_level()
    special = tokenizer.convert_tokens_to_ids(form.trigger) if form is MISTRAL else None
    options = {"must_call": False, "parallel": True, "trigger_token": special} | options
    grammars = Grammars(tokenizer, len(tokenizer), {tokenizer.eos_token_id})
    (matcher,) = grammars.matchers(lark_grammar(tool_grammar(tools(), form, **options)), "tools")
    spelled, _ = token_bytes(tokenizer)
    rng, tokens = random.Random(seed), list[int]()
    while not matcher.ended and len(tokens) < 300:
        logits = torch.zeros(len(tokenizer))
        matcher.mask(logits)
        allowed = torch.nonzero(logits == 0).flatten().tolist()
        likely = {special, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<tool_call>")}
        if likely.intersection(allowed) and rng.random() < 0.2:
            allowed = sorted(likely.intersection(allowed))
        token = rng.choice(allowed)
        matcher.accept(token)
        assert matcher.failure is None
        tokens.append(token)
    if tokens[-1] == tokenizer.eos_token_id:
        tokens.pop()
    return b"".join(spelled[token] for token in tokens).decode(errors="replace"), matcher.ended


def parse(parser: ToolParser, text: str, rng: random.Random) -> tuple[str, list[tuple[str, str]], list[str]]:
    """Content, (name, arguments) and ids, from `text` cut at random."""
    content, calls, ids = "", list[tuple[str, str]](), list[str]()
    pieces = []
    while text:
        cut = rng.randrange(1, 9)
        pieces += parser.add(text[:cut])
        text = text[cut:]
    for piece in pieces + parser.flush():
        match piece:
            case Content(text=more):
                assert not calls
                content += more
            case CallBegins(index=index, id=call_id, name=name):
                assert index == len(calls)
                calls.append((name, ""))
                ids.append(call_id)
            case Arguments(index=index, text=more):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + more)
    return content, calls, ids


@pytest.mark.parametrize(
    "form", [HERMES, LLAMA, MISTRAL, GENERIC], ids=["hermes", "llama", "mistral", "generic"]
)
@pytest.mark.parametrize("must_call", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_every_text_of_the_grammar_is_read_whole(form: ToolFormat, must_call: bool, seed: int) -> None:
    text, complete = random_text(form, seed, must_call=must_call)
    parser = ToolParser(form)
    content, calls, ids = parse(parser, text, random.Random(seed))
    assert len(set(ids)) == len(ids)
    if must_call:
        assert content == ""
        assert calls
    if not complete:
        return
    assert parser.called == bool(calls)
    assert parser.called or content == text
    for name, arguments in calls:
        value = json.loads(arguments)
        assert value.keys() <= SCHEMAS[name]["properties"].keys()
        assert name == "stop" or value["city"] in SCHEMAS[name]["properties"]["city"]["enum"]


@pytest.mark.parametrize("form", [HERMES, MISTRAL], ids=["hermes", "mistral"])
@pytest.mark.parametrize("seed", range(8))
def test_without_parallel_calls_there_is_one(form: ToolFormat, seed: int) -> None:
    text, complete = random_text(form, seed, must_call=True, parallel=False)
    _, calls, _ = parse(ToolParser(form), text, random.Random(seed))
    assert complete
    assert len(calls) == 1


@pytest.mark.parametrize("seed", range(8))
def test_content_by_a_schema_may_hold_what_looks_like_a_call(seed: int) -> None:
    content = schema_for_grammar({"enum": ["<tool_call>\n{}", "tea"]}, lenient=False)
    text, complete = random_text(HERMES, seed, content=content)
    shown, calls, _ = parse(ToolParser(HERMES, either=True), text, random.Random(seed))
    assert complete or calls
    if not calls:
        assert json.loads(shown) in ("<tool_call>\n{}", "tea")


def test_a_begun_trigger_is_held_back_until_it_is_none() -> None:
    parser = ToolParser(HERMES)
    assert parser.add("a <tool") == [Content("a ")]
    assert parser.add("box>") == [Content("<toolbox>")]
    assert parser.add("<tool_") == []
    assert parser.flush() == [Content("<tool_")]
    assert not parser.called


def test_a_call_cut_in_the_middle_stays_as_far_as_it_came() -> None:
    parser = ToolParser(HERMES)
    pieces = parser.add('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa') + parser.flush()
    assert [type(piece) for piece in pieces] == [CallBegins, Arguments]
    assert pieces[1] == Arguments(0, '{"city": "Pa')
    assert not parser.called
    assert ToolParser(HERMES).add('<tool_call>\n{"name": "get_wea') == []


def test_ids_are_as_the_families_templates_want_them() -> None:
    (begins, *_) = ToolParser(MISTRAL).add('[TOOL_CALLS][{"name": "stop", "arguments": {}}]')
    assert isinstance(begins, CallBegins)
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", begins.id)
    (begins, *_) = ToolParser(LLAMA).add('{"name": "stop", "parameters": {}}')
    assert isinstance(begins, CallBegins)
    assert re.fullmatch(r"call_[a-zA-Z0-9]{24}", begins.id)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (None, GENERIC),
        ("{{ messages }}", GENERIC),
        ('{% if tools %}{{- \'<tool_call>\\n{"name": "\' }}{{- \'", "arguments": \' }}', HERMES),
        ('{% if tools %}<tool_call>\n<function=name>"arguments"', GENERIC),
        ('{% if tools %}{{- "[TOOL_CALLS] [" }}', MISTRAL),
        ('{% if tools %}{{- "[TOOL_CALLS]" + name + "[ARGS]" }}', GENERIC),
        ("{{ tools }}{{- '\"parameters\": ' }}<|eot_id|>", LLAMA),
        ("{{ tools }} in some way of their own", GENERIC),
    ],
)
def test_the_template_tells_the_format(template: str | None, form: ToolFormat) -> None:
    assert choose_format(template) is form
