"""OpenAI's own clients, connected to the samovar server that belongs to this kernel."""

from __future__ import annotations

from typing import Any

import openai

from samovar.connect import find_server, is_loopback


def client() -> openai.OpenAI:
    """OpenAI's client, connected. NoServer says what to do when there is no server."""
    return openai.OpenAI(**_connection(openai.DefaultHttpxClient))


def async_client() -> openai.AsyncOpenAI:
    """OpenAI's client for `await`, connected. NoServer says what to do when there is no server."""
    return openai.AsyncOpenAI(**_connection(openai.DefaultAsyncHttpxClient))


def _connection(http: type[Any]) -> dict[str, Any]:
    server = find_server()
    connection: dict[str, Any] = {"base_url": server.url, "api_key": server.token or "none"}
    if is_loopback(server.url):
        # Requests for this machine must not go to the proxy that HTTP_PROXY names.
        connection["http_client"] = http(trust_env=False)
    return connection
