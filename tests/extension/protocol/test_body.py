"""What is JSON to Python and not to anybody else is refused, with its place."""

from __future__ import annotations

import pytest

from samovar_server.errors import InvalidRequest
from samovar_server.protocol.body import read_object


def test_what_is_json_is_read() -> None:
    body = '{"a": [1.5, "\\ud83e\\uded6", "NaN", "🫖", "\\\\ud800"], "\\u00e9": null}'
    assert read_object(body.encode()) == {"a": [1.5, "🫖", "NaN", "🫖", "\\ud800"], "é": None}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"temperature": NaN}', "temperature"),
        (b'{"logit_bias": {"5": -Infinity}}', "logit_bias.5"),
        (b'{"prompt": [[1, 2], [3, Infinity]]}', "prompt.1.1"),
        (b'{"top_k": 1e400, "seed": NaN}', "seed"),
        (b'{"messages": [{"role": "user", "content": "a\\ud800b"}]}', "messages.0.content"),
        (b'{"stop": ["\\uDC00"]}', "stop.0"),
        (b'{"a": {"\\udfff": 1}}', "a"),
    ],
)
def test_what_is_no_json_is_refused_by_its_place(body: bytes, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_object(body)
    assert refused.value.param == param
    assert refused.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'{"a": 1',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',  # half a character in bytes
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: body[:20],
)
def test_a_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON object"):
        read_object(body)


def test_deep_values_are_looked_through_without_recursion() -> None:
    deep = b'{"a": ' + b"[" * 900 + b"NaN" + b"]" * 900 + b"}"
    with pytest.raises(InvalidRequest) as refused:
        read_object(deep)
    assert refused.value.param == "a" + ".0" * 900
