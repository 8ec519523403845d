"""response_format, tools and messages about tools: what is taken, and what is refused by which name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from samovar_server.errors import InvalidRequest
from samovar_server.protocol.chat import ChatRequest, parse_chat_request

TOOL: Any = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
OTHER: Any = {"type": "function", "function": {"name": "g"}}
CALL: Any = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USER: Any = {"role": "user", "content": "Hi"}


def request(**fields: Any) -> ChatRequest:
    return parse_chat_request(json.dumps({"messages": [USER]} | fields).encode())


def called_with(arguments: str) -> Any:
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


def nested(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def by_schema(schema: Any, **fields: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema} | fields}


def test_defaults() -> None:
    plain = request()
    assert plain.response_format.type == "text"
    assert plain.callable_tools() == []
    assert not plain.must_call


@pytest.mark.parametrize(
    ("choice", "names", "must"),
    [
        (None, ["f", "g"], False),
        ("auto", ["f", "g"], False),
        ("none", [], False),
        ("required", ["f", "g"], True),
        ({"type": "function", "function": {"name": "g"}}, ["g"], True),
    ],
)
def test_tool_choice_says_which_tools_may_or_must_be_called(
    choice: Any, names: list[str], must: bool
) -> None:
    asked = request(tools=[TOOL, OTHER], tool_choice=choice)
    assert [tool.function.name for tool in asked.callable_tools()] == names
    assert asked.must_call is must


def test_what_openais_client_sends_back_is_taken() -> None:
    answer = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [CALL],
    }
    result = {"role": "tool", "tool_call_id": "call_1", "content": "1"}
    _, assistant, tool = request(messages=[USER, answer, result]).messages
    assert assistant.for_template() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {}}}],
    }
    assert tool.for_template() == {"role": "tool", "content": "1", "tool_call_id": "call_1"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "a", "schema": {}}}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object", "indent": 2}}, "response_format.indent"),
        ({"response_format": by_schema({}, name="a b")}, "response_format.json_schema.name"),
        ({"response_format": by_schema([])}, "response_format.json_schema.schema"),
        ({"response_format": by_schema(nested(70))}, "response_format.json_schema.schema"),
        ({"response_format": by_schema({"a": "x" * 130_000})}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 3}, "min_tokens"),
        ({"tools": [TOOL], "ignore_eos": True}, "ignore_eos"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [OTHER, {"type": "function", "function": {"name": "a b"}}]}, "tools.1.function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools.0.function.parameters",
        ),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "h"}}}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"functions": []}, "functions"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "Hi", "tool_calls": [CALL]}]}, "messages.0"),
        ({"messages": [USER, {"role": "tool", "content": "1"}]}, "messages.1"),
        ({"messages": [{"role": "user", "content": "Hi", "tool_call_id": "1"}]}, "messages.0"),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages.0.tool_calls"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}],
                    }
                ]
            },
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"messages": [called_with('{"a": NaN}')]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called_with('{"a": "\\ud800"}')]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called_with("[]")]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called_with('{"a":' * 2000)]}, "messages.0.tool_calls.0.function.arguments"),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request(**fields)
    assert refused.value.param == param
    assert len(refused.value.message) < 600


def test_with_tool_choice_none_there_is_no_grammar_to_be_in_the_way() -> None:
    assert request(tools=[TOOL], tool_choice="none", min_tokens=3).min_tokens == 3
