"""Chat answers over HTTP from a model that says whatever its grammar lets it: shapes, formats, failures."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from llguidance import LLParserLimits

from samovar_server.engine import grammar
from samovar_server.protocol.adapters import AdapterFolder
from tests.extension.engine.tokenizers import CHAT_TEMPLATE
from tests.extension.engine.whim import ask, events

HERMES = CHAT_TEMPLATE + '{# tools <tool_call> "arguments" #}'
LLAMA = CHAT_TEMPLATE + "{# tools '\"parameters\": ' <|eot_id|> #}"
MISTRAL = CHAT_TEMPLATE + "{# tools [TOOL_CALLS] #}"

TEMPLATES = pytest.mark.parametrize(
    "template", [CHAT_TEMPLATE, HERMES, LLAMA, MISTRAL], ids=["generic", "hermes", "llama", "mistral"]
)

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "get_time"}},
]


def chat(
    template: str, *bodies: dict[str, Any], adapter: AdapterFolder | None = None
) -> list[httpx.Response]:
    """The worker's answers to `bodies`, asked all at once."""
    defaults = {"messages": [{"role": "user", "content": "Weather?"}], "max_tokens": 300, "seed": 1}
    headers = adapter.header() if adapter is not None else {}
    return ask("chat/completions", *(defaults | body for body in bodies), template=template, headers=headers)


def test_a_model_outside_the_slots_refuses_an_adapter() -> None:
    (answer,) = chat(CHAT_TEMPLATE, {}, adapter=AdapterFolder("style", "/nowhere"))
    assert answer.status_code == 400
    assert "Leave out +style" in answer.json()["error"]["message"]


@TEMPLATES
@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_the_same_whole_and_streamed(template: str, seed: int) -> None:
    body = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": seed}
    whole, stream = chat(template, body, body | {"stream": True})
    (choice,) = whole.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments == {} or arguments["city"] in ("Paris", "Rome")

    *chunks, done = events(stream)
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    first, *rest = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert first.keys() == {"index", "id", "type", "function"}
    assert first["function"] == {"name": call["function"]["name"], "arguments": ""}
    assert all(delta.keys() == {"index", "function"} for delta in rest)
    joined = "".join(delta["function"]["arguments"] for delta in rest)
    assert joined == call["function"]["arguments"]
    assert not any(delta.get("content") for delta in deltas)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("template", "syntax"),
    [
        (CHAT_TEMPLATE, "<tool_call>"),
        (HERMES, "<tool_call>"),
        (LLAMA, '{"name": "'),
        (MISTRAL, "[TOOL_CALLS]"),
    ],
    ids=["generic", "hermes", "llama", "mistral"],
)
def test_auto_gives_words_or_calls_and_never_shows_the_calls_syntax(template: str, syntax: str) -> None:
    answers = chat(template, *({"tools": TOOLS, "seed": seed, "max_tokens": 150} for seed in range(8)))
    for answer in answers:
        (choice,) = answer.json()["choices"]
        if not choice["message"].get("tool_calls"):
            assert choice["finish_reason"] in ("stop", "length")
        assert syntax not in (choice["message"]["content"] or "")


@pytest.mark.parametrize("template", [HERMES, MISTRAL], ids=["hermes", "mistral"])
def test_a_schema_for_the_words_leaves_room_for_calls(template: str) -> None:
    schema = {"name": "a", "schema": {"enum": ["yes", "no"]}}
    form = {"type": "json_schema", "json_schema": schema}
    for answer in chat(template, *({"tools": TOOLS, "response_format": form, "seed": n} for n in range(6))):
        (choice,) = answer.json()["choices"]
        if choice["finish_reason"] == "stop":
            assert json.loads(choice["message"]["content"]) in ("yes", "no")


def test_where_calls_are_bare_json_words_cannot_be_json_too() -> None:
    (answer,) = chat(LLAMA, {"tools": TOOLS, "response_format": {"type": "json_object"}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"


def test_each_sample_has_a_grammar_of_its_own_and_scores_come_along() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["tea", "jam", "rusk"]}}}
    (answer,) = chat(CHAT_TEMPLATE, {"response_format": form, "n": 6, "logprobs": True})
    contents = [choice["message"]["content"] for choice in answer.json()["choices"]]
    assert {json.loads(content) for content in contents} <= {"tea", "jam", "rusk"}
    assert len(set(contents)) > 1
    for choice, content in zip(answer.json()["choices"], contents, strict=True):
        assert "".join(score["token"] for score in choice["logprobs"]["content"]) == content


def test_a_grammar_that_fails_is_a_400_or_an_event_and_neighbours_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammar, "LIMITS", LLParserLimits(max_lexer_states=60, verbose_errors=False))
    schema = {"type": "string", "pattern": "^(.*a){400}.{900}$"}
    bad = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
    whole, stream, neighbour = chat(
        CHAT_TEMPLATE, bad | {"n": 2}, bad | {"stream": True}, {"max_tokens": 200}
    )
    assert whole.status_code == 400
    assert whole.json()["error"]["param"] == "response_format.json_schema.schema"
    assert stream.status_code == 200
    assert "too complex" in events(stream)[-1]["error"]["message"]
    assert neighbour.status_code == 200
    assert neighbour.json()["choices"][0]["finish_reason"] in ("stop", "length")


def test_schemas_are_refused_by_the_tool_they_belong_to() -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"not": {"type": "string"}}}}
    lenient: Any = {"type": "function", "function": tool["function"] | {"strict": False}}
    refused, taken = chat(
        CHAT_TEMPLATE, {"tools": [*TOOLS, tool]}, {"tools": [*TOOLS, lenient], "max_tokens": 5}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "tools.2.function.parameters"
    assert taken.status_code == 200


def test_of_a_stream_with_counts_the_other_events_have_none() -> None:
    counted, plain = chat(
        CHAT_TEMPLATE,
        {"stream": True, "max_tokens": 4, "stream_options": {"include_usage": True}},
        {"stream": True, "max_tokens": 4},
    )
    *chunks, last, done = events(counted)
    assert done == "[DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert not any("usage" in chunk for chunk in events(plain)[:-1])


def test_scores_come_with_every_token_and_are_the_models_own() -> None:
    body = {"max_tokens": 12, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    odd = {"temperature": 0.2, "top_k": 3, "frequency_penalty": 2, "logit_bias": {"70": 100}}
    for answer in chat(CHAT_TEMPLATE, body, body | odd, body | {"n": 2}, body | {"stop": ["e"]}):
        for choice in answer.json()["choices"]:
            scores = choice["logprobs"]["content"]
            if choice["finish_reason"] == "length":
                assert len(scores) == 12
            shown = bytes(byte for score in scores for byte in score["bytes"]).decode(errors="replace")
            assert shown.startswith(choice["message"]["content"].rstrip("\ufffd"))
            for score in scores:
                # All of some 300 tokens are about as likely to this model, whatever was drawn and how.
                assert -7 < score["logprob"] < -4.5
                assert score["top_logprobs"][0]["logprob"] >= score["logprob"]
                assert len(score["top_logprobs"]) == 2
