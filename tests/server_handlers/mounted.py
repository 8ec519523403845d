"""What a web application has below /v1, and that it is closed to strangers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tornado import web
from tornado.routing import PathMatches

CHAT = {"messages": [{"role": "user", "content": "hello"}]}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

BAD_CREDENTIALS = pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": b"Bearer wrong"},
        {"Authorization": b"token wrong"},
        {"Authorization": b"Bearer"},
        {"Authorization": b"Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer \xfcml\xe4ut".encode("latin-1")},
        {"Cookie": b"username-127-0-0-1=forged"},
    ],
    ids=["none", "bearer", "token", "empty", "basic", "not-ascii", "forged-cookie"],
)


def mounted(application: web.Application, base: str) -> dict[str, type[web.RequestHandler]]:
    """Every handler below `base`/v1, by its pattern without `base`."""

    def walk(rules: list[Any]) -> Iterator[tuple[str, type[web.RequestHandler]]]:
        for rule in rules:
            inner = getattr(rule.target, "rules", None)
            if inner is not None:
                yield from walk(inner)
            elif isinstance(rule.matcher, PathMatches):
                yield rule.matcher.regex.pattern.removesuffix("$"), rule.target

    base = base.rstrip("/")
    found = walk(application.default_router.rules)
    return {pattern.removeprefix(base): handler for pattern, handler in found if f"{base}/v1" in pattern}


def example(pattern: str) -> str:
    """A path, below /v1, that `pattern` matches."""
    for regex, text in (("(.+?)", "org/tiny"), (".*", "nowhere"), ("/?", ""), ("\\", "")):
        pattern = pattern.replace(regex, text)
    return pattern.removeprefix("/v1")


async def assert_closed(client: httpx.AsyncClient, path: str, headers: dict[str, bytes]) -> None:
    """Whatever the method, `path` is closed to who sends `headers`."""
    for method in METHODS:
        if (path, method) == ("/health", "GET"):
            continue
        answer = await client.request(method, path, json=CHAT, headers=headers)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        if method != "HEAD":
            assert answer.json()["error"]["code"] == "invalid_api_key", (method, path)
