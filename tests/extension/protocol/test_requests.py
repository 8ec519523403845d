"""Fields of chat completions, completions and embeddings: their bounds, and by which name they are refused.

On both generating routes, where both have the field.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from samovar_server.errors import InvalidRequest
from samovar_server.protocol.chat import ChatRequest, parse_chat_request
from samovar_server.protocol.completions import CompletionRequest, parse_completion_request
from samovar_server.protocol.embeddings import EmbeddingRequest
from samovar_server.protocol.fields import GenerationRequest, parse

MESSAGES: Any = [{"role": "user", "content": "Hi"}]

SHARED: list[tuple[str, list[Any], list[Any]]] = [
    ("temperature", [0, 1e-6, 2], [-0.1, 2.1, "1", True]),
    ("top_p", [1e-9, 1], [0, 1.1, -1, "1"]),
    ("top_k", [-1, 0, 1, 10**30], [-2, 1.5, "1", True]),
    ("min_p", [0, 1], [-0.1, 1.1, "0"]),
    ("seed", [0, -(2**63), 2**63 - 1], [2**63, 1.5, "1", True]),
    ("n", [1, 128], [0, -1, 129, 1.0, "1", True]),
    ("presence_penalty", [-2, 2], [-2.1, 2.1, "0"]),
    ("frequency_penalty", [-2, 2], [-2.1, 2.1, "0"]),
    ("repetition_penalty", [0.1, 10], [0, -1, 11, "1"]),
    (
        "logit_bias",
        [{}, {"5": 100, "6": -100}],
        [[], {"a": 1}, {"-1": 1}, {"1.0": 1}, {"²": 1}, {"9" * 5000: 1}, {str(n): 1 for n in range(1025)}],
    ),
    ("max_tokens", [1, 10**30], [-1, 1.5, "1", True]),
    ("min_tokens", [0, 5], [-1, 1.5, "1"]),
    ("ignore_eos", [True, False], [1, "true"]),
    (
        "stop",
        ["a", ["a"], list("abcd"), [], "x" * 1024],
        ["", [""], list("abcde"), 1, "x" * 100_000, ["a", "x" * 100_000]],
    ),
    ("stop_token_ids", [[], [5], list(range(128))], [5, list(range(129))]),
    ("stream", [True, False], [1, "true"]),
    ("stream_options", [], [{"include_usage": True}]),  # without stream
    ("exact", [True], ["yes"]),
    ("user", ["me"], [1]),
    ("model", ["demo"], [1]),
]


def chat(**fields: Any) -> ChatRequest:
    return parse_chat_request(json.dumps({"messages": MESSAGES} | fields).encode())


def completion(**fields: Any) -> CompletionRequest:
    return parse_completion_request(json.dumps({"prompt": "Hi"} | fields).encode())


def both(**fields: Any) -> tuple[GenerationRequest, ...]:
    return chat(**fields), completion(**fields)


def refused(parse: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        parse(**fields)
    assert len(error.value.message) < 900
    return error.value


@pytest.mark.parametrize("parse", [chat, completion])
@pytest.mark.parametrize(("name", "good", "bad"), SHARED, ids=[name for name, _, _ in SHARED])
def test_shared_fields_are_taken_within_their_bounds_and_refused_by_name(
    parse: Any, name: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        parse(**{name: value})
    for value in bad:
        assert refused(parse, **{name: value}).param == name, value


@pytest.mark.parametrize("parse", [chat, completion])
@pytest.mark.parametrize(("name", "value"), [(name, None) for name, _, _ in SHARED])
def test_null_asks_for_nothing(parse: Any, name: str, value: None) -> None:
    assert name not in parse(**{name: value}).asked()


@pytest.mark.parametrize("parse", [chat, completion])
@pytest.mark.parametrize(
    "name",
    ["frobnicate", "store", "metadata", "service_tier", "functions", "guided_json", "use_beam_search"],
)
def test_what_is_unknown_is_refused_by_name_and_the_known_is_told(parse: Any, name: str) -> None:
    error = refused(parse, **{name: False})
    assert error.param == name
    assert "temperature" in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type",
        ),
        ({"messages": [{"role": "user", "content": "Hi", "mood": "good"}]}, "messages.0.mood"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"min_tokens": 5, "max_completion_tokens": 4}, "min_tokens"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": "Hi"}, "prompt"),
    ],
)
def test_chat_refuses_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(chat, **fields).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt.1"),
        ({"prompt": [[1], []]}, "prompt.1"),
        ({"prompt": [[1], [-1]]}, "prompt.1.0"),
        ({"prompt": [True]}, "prompt.0"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"suffix": "x"}, "suffix"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": []}, "tools"),
        ({"messages": MESSAGES}, "messages"),
    ],
)
def test_completions_refuse_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(completion, **fields).param == param


@pytest.mark.parametrize("prompt", ["Hi", [5, 6], ["Hi"], [[5, 6]]])
def test_a_prompt_alone_is_a_list_of_one(prompt: Any) -> None:
    assert completion(prompt=prompt).prompt in (["Hi"], [[5, 6]])


def test_limits_that_say_the_same_twice_are_taken() -> None:
    assert chat(max_tokens=5, max_completion_tokens=5, min_tokens=5).output_limit() == 5


def test_max_tokens_0_scores_a_prompt() -> None:
    assert completion(max_tokens=0, echo=True, logprobs=1).prompt_scores() == 1
    assert completion(max_tokens=0, prompt_logprobs=2).prompt_scores() == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": []}, "input"),
        ({"input": [[5], [-5]]}, "input.1.0"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "temperature": 1}, "temperature"),
    ],
)
def test_embeddings_refuse_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(lambda **body: parse(EmbeddingRequest, json.dumps(body).encode()), **fields).param == param


def test_sampling_is_what_was_asked() -> None:
    asked = {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "presence_penalty": 1.5,
        "frequency_penalty": -1.5,
        "repetition_penalty": 1.25,
        "min_tokens": 3,
    }
    for request in both(**asked, logit_bias={"5": 2}, stop_token_ids=[9]):
        sampling = request.sampling(frozenset({1}), seed=4)
        assert {name: getattr(sampling, name) for name in asked} == asked
        assert (sampling.logit_bias, sampling.seed) == (((5, 2.0),), 4)
        assert sampling.stop_tokens == {1, 9}
    for request in both(ignore_eos=True, top_k=-1, stop_token_ids=[9]):
        sampling = request.sampling(frozenset({1}), seed=4)
        assert (set(sampling.stop_tokens), sampling.top_k) == ({9}, 0)
