from __future__ import annotations

import json
from typing import Any

import pytest

from samovar_server.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    SamovarError,
    UpstreamFailed,
)
from samovar_server.loader.dialect import SALT, Dialect

LLAMA = Dialect("llama.cpp")


def test_where_any_name_will_do_the_body_is_not_touched() -> None:
    body = b'{"model": "demo",  "ttl": 5}'
    assert LLAMA.request(body) is body


def test_else_it_carries_the_upstreams_name_and_nothing_that_is_samovars() -> None:
    sent = Dialect("vLLM", "org/m").request(
        b'{"model": "alias", "ttl": 5, "backend": "vllm", "max_model_len": 10, "top_k": 3}'
    )
    assert json.loads(sent) == {"model": "org/m", "top_k": 3}


@pytest.mark.parametrize("dialect", [LLAMA, Dialect("vLLM", "m")], ids=["any name", "a name"])
def test_streams_are_asked_for_their_token_counts(dialect: Dialect) -> None:
    sent = dialect.request(b'{"model": "m", "stream": true, "stream_options": {"include_usage": false}}')
    assert json.loads(sent) == {"model": "m", "stream": True, "stream_options": {"include_usage": True}}


def test_each_engine_is_told_in_its_own_way_not_to_reuse_what_it_computed_for_others() -> None:
    vllm = Dialect("vLLM", "m", isolating={"cache_salt": SALT})
    sent = [json.loads(vllm.isolated(salt).request(b'{"model": "m"}')) for salt in ("one", "two")]
    assert sent == [{"model": "m", "cache_salt": "one"}, {"model": "m", "cache_salt": "two"}]
    llama = Dialect("llama.cpp", isolating={"cache_prompt": False}).isolated("one")
    assert json.loads(llama.request(b'{"n": 1}')) == {"n": 1, "cache_prompt": False}


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (
            400,
            {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}},
            ContextLengthExceeded,
            "llama.cpp: too long",
        ),
        (
            400,
            {"object": "error", "message": "This model's maximum context length is 10 tokens", "code": 400},
            ContextLengthExceeded,
            "maximum context length",
        ),
        (400, {"error": {"message": "no", "param": "top_p"}}, InvalidRequest, "llama.cpp: no"),
        (400, {"error": "plain"}, InvalidRequest, "llama.cpp: plain"),
        (404, {"error": {"message": "no such model"}}, ModelNotFound, "no such model"),
        (429, {}, QueueFull, "Too Many Requests"),
        (503, {"error": {"message": "Loading model"}}, QueueFull, "Loading model"),
        (401, {"error": {"message": "Incorrect API key: sk-123"}}, UpstreamFailed, "credentials"),
        (500, ["?"], UpstreamFailed, "Internal Server Error"),
    ],
)
def test_a_refusal_in_samovars_terms(status: int, body: Any, kind: type[SamovarError], message: str) -> None:
    error = LLAMA.error(status, json.dumps(body).encode())
    assert type(error) is kind
    assert message in error.message
    assert "sk-123" not in error.message


def test_what_else_a_refusal_tells() -> None:
    assert LLAMA.error(400, b'{"error": {"message": "no", "param": "top_p"}}').param == "top_p"
    assert LLAMA.error(429, b"", "7").retry_after == 7
    assert LLAMA.error(502, b"<html>").message == "llama.cpp: Bad Gateway"
    long = json.dumps({"error": {"message": "x" * 10_000}}).encode()
    assert len(LLAMA.error(400, long).message) < 600
