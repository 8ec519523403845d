"""Structured answers and tool calls on the real model, through OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.extension.engine.worker import SECRET, worker

pytestmark = pytest.mark.real

QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris today?"}]

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}

CLOCK: Any = {"type": "function", "function": {"name": "get_time", "description": "The time"}}


class City(BaseModel):
    name: str
    country: str
    inhabitants: int


SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 30},
                "kind": {"enum": ["city", "river"]},
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["name", "kind", "size"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def ai(demo_model: Path) -> Iterator[openai.OpenAI]:
    with (
        worker(demo_model) as url,
        openai.OpenAI(base_url=url, api_key=SECRET, max_retries=0, timeout=120) as client,
    ):
        yield client


def ask(ai: openai.OpenAI, **arguments: Any) -> Any:
    arguments = {"model": "demo", "messages": QUESTION, "temperature": 0, "max_tokens": 200} | arguments
    return ai.chat.completions.create(**arguments)


def joined(chunks: Any) -> tuple[str, list[dict[str, Any]], str | None]:
    """A stream put together as OpenAI's documentation says."""
    content, calls, reason = "", list[dict[str, Any]](), None
    for chunk in chunks:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        for delta in choice.delta.tool_calls or []:
            if delta.index == len(calls):
                assert delta.type == "function"
                calls.append({"id": delta.id, "name": delta.function.name, "arguments": ""})
            calls[delta.index]["arguments"] += delta.function.arguments
        reason = choice.finish_reason or reason
    return content, calls, reason


@pytest.mark.parametrize("seed", range(2))
def test_json_by_schema_at_any_temperature(ai: openai.OpenAI, seed: int) -> None:
    answer = ask(ai, response_format=SCHEMA, temperature=1.5, seed=seed)
    (choice,) = answer.choices
    value = json.loads(choice.message.content)
    assert list(value) == ["name", "kind", "size"]
    assert value["kind"] in ("city", "river")
    assert 1 <= value["size"] <= 9
    assert choice.finish_reason == "stop"
    assert answer.usage.completion_tokens < 200
    streamed, calls, reason = joined(ask(ai, response_format=SCHEMA, temperature=1.5, seed=seed, stream=True))
    assert (streamed, calls, reason) == (choice.message.content, [], "stop")


def test_the_clients_own_parsing(ai: openai.OpenAI) -> None:
    answer = ai.chat.completions.parse(
        model="demo",
        messages=[{"role": "user", "content": "Tell me about Paris."}],
        response_format=City,
        temperature=0,
        max_tokens=200,
    )
    assert isinstance(answer.choices[0].message.parsed, City)


def test_any_json_object_or_as_much_of_it_as_max_tokens_allow(ai: openai.OpenAI) -> None:
    short = ask(ai, response_format={"type": "json_object"}, max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0].message.content.startswith("{")
    text = ask(ai, response_format={"type": "text"}, max_tokens=3)
    assert not text.choices[0].message.content.startswith("{")


def test_samples_and_neighbours_keep_to_their_own_grammars(ai: openai.OpenAI) -> None:
    def alone(seed: int) -> list[str]:
        formats = [None, SCHEMA, {"type": "json_object"}]
        answer = ask(ai, response_format=formats[seed % 3], temperature=1, seed=seed, n=2, max_tokens=20)
        return [choice.message.content for choice in answer.choices]

    one_by_one = [alone(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(alone, range(6))) == one_by_one
    assert one_by_one[1][0] != one_by_one[1][1]


def test_a_named_function_is_called(ai: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    answer = ask(ai, tools=[CLOCK, WEATHER], tool_choice=choice)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    (call,) = message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    content, calls, reason = joined(ask(ai, tools=[CLOCK, WEATHER], tool_choice=choice, stream=True))
    assert (content, reason) == ("", "tool_calls")
    assert [(call["name"], call["arguments"]) for call in calls] == [("get_weather", call.function.arguments)]


@pytest.mark.parametrize("seed", range(2))
def test_required_calls_some_function(ai: openai.OpenAI, seed: int) -> None:
    answer = ask(
        ai,
        tools=[CLOCK, WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1,
        seed=seed,
        logprobs=True,
    )
    (call,) = answer.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == ({"city", "unit"} if call.function.name == "get_weather" else set())
    assert answer.choices[0].logprobs.content


def test_auto_and_none_may_answer_in_words(ai: openai.OpenAI) -> None:
    hello: Any = [{"role": "user", "content": "Say hello."}]
    plain = ask(ai, messages=hello, max_tokens=20)
    none = ask(ai, messages=hello, tools=[CLOCK], tool_choice="none", max_tokens=20)
    assert none.choices[0].message.content == plain.choices[0].message.content
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens
    auto = ask(ai, messages=hello, tools=[CLOCK], max_tokens=40)
    assert auto.usage.prompt_tokens > plain.usage.prompt_tokens
    assert auto.choices[0].message.content or auto.choices[0].message.tool_calls


def test_a_call_and_its_result_go_back_as_they_came(ai: openai.OpenAI) -> None:
    asked = ask(ai, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    message = asked.choices[0].message
    result: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "18 degrees, rain"}
    answer = ask(
        ai, messages=[*QUESTION, message, result], tools=[WEATHER], tool_choice="auto", max_tokens=40
    )
    assert answer.usage.prompt_tokens > asked.usage.prompt_tokens + 20
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_a_call_cut_short_says_length(ai: openai.OpenAI) -> None:
    answer = ask(ai, tools=[WEATHER], tool_choice="required", max_tokens=16)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
        ),
        (
            {
                "tools": [
                    CLOCK,
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}},
                    },
                ]
            },
            "tools.1.function.parameters",
        ),
    ],
)
def test_what_no_grammar_holds_is_refused_by_name(
    ai: openai.OpenAI, arguments: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(ai, **arguments)
    assert refused.value.param == param
