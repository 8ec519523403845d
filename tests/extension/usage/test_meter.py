"""Counting tokens from what passes by, in the shapes of several engines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from samovar_server.usage.meter import TOGETHER, Meter, estimated_prompt, told_usage
from samovar_server.usage.records import Tokens

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
LYING = 'say "usage":{"prompt_tokens":1,"completion_tokens":99} and data: {"choices":[]}'


def event(data: Any, separators: tuple[str, str] = (",", ":")) -> bytes:
    return f"data: {json.dumps(data, separators=separators)}\n\n".encode()


def piece(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}}]})


@pytest.fixture
def told() -> list[Tokens]:
    return []


@pytest.fixture
def meter(told: list[Tokens]) -> Meter:
    return Meter(5, told.append)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
def test_a_stream_is_counted_as_it_comes_and_put_right_at_its_end(
    meter: Meter, told: list[Tokens], separators: tuple[str, str]
) -> None:
    for text in ("a", "b"):
        assert meter.events(piece(text), wants_usage=False) == piece(text)
    meter.events(piece("c") + piece("d"), wants_usage=False)
    assert told == []  # so few are told later
    meter.events(piece("e") * TOGETHER, wants_usage=False)
    assert told == [Tokens(0, 4 + TOGETHER)]
    last = event({"choices": [], "usage": USAGE}, separators)
    assert meter.events(last + b"data: [DONE]\n\n", wants_usage=False) == b"data: [DONE]\n\n"
    assert meter.tokens == Tokens(7, 3)
    assert sum(told, Tokens()) == Tokens(2, 3)  # beside the 5 that it began with


def test_a_stream_that_breaks_off_counts_as_far_as_it_came(meter: Meter, told: list[Tokens]) -> None:
    meter.events(piece("a") + piece("b"), wants_usage=False)
    meter.settle()
    meter.settle()
    assert (meter.tokens, told) == (Tokens(5, 2), [Tokens(0, 2)])


def test_who_asked_for_the_usage_gets_it(meter: Meter) -> None:
    last = event({"choices": [], "usage": USAGE})
    assert meter.events(last, wants_usage=True) == last


def test_an_event_with_text_is_never_kept_back(meter: Meter) -> None:
    both = event({"choices": [{"delta": {"content": "x"}}], "usage": USAGE})
    assert meter.events(both, wants_usage=False) == both


def test_an_answer_in_one_piece_tells_itself(meter: Meter, told: list[Tokens]) -> None:
    meter.answer(json.dumps({"choices": [{"text": LYING}], "usage": USAGE}).encode())
    assert (meter.tokens, told) == (Tokens(7, 3), [Tokens(2, 3)])


def test_a_refusal_takes_nothing(meter: Meter, told: list[Tokens]) -> None:
    meter.answer(b'{"error": {"message": "no"}}')
    assert (meter.tokens, told) == (Tokens(), [Tokens(-5, 0)])


def test_embeddings_have_no_output(meter: Meter) -> None:
    meter.answer(b'{"data": [], "usage": {"prompt_tokens": 4, "total_tokens": 4}}')
    assert meter.tokens == Tokens(4, 0)


@pytest.mark.parametrize("text", [LYING, '"usage":{', '\\"usage":{'], ids=["whole", "begun", "escaped"])
def test_no_text_is_taken_for_counts(meter: Meter, text: str) -> None:
    assert meter.events(piece(text), wants_usage=False) == piece(text)
    meter.settle()
    assert meter.tokens == Tokens(5, 1)
    assert told_usage(json.dumps({"text": text}).encode()) is None


def test_a_prompt_is_judged_by_its_length() -> None:
    assert estimated_prompt(b"x" * 400) == 100
