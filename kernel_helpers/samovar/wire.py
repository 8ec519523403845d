"""Requests to one server and their answers, whole or as streams; every trouble is one of our errors."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from samovar.abort import Abort
from samovar.connect import Server, transport_for
from samovar.errors import ConnectionLost, NoServer, ServerError
from samovar.sse import Comment, Data, parse_events

CONNECT_SECONDS = 10.0


class Wire:
    """Speaks with `server`. Connections are kept open between requests; threads may share it.

    Every method raises ServerError when the server refuses, NoServer when it cannot be reached and
    ConnectionLost when it goes away in the middle.
    """

    def __init__(self, server: Server, sharing: Wire | None = None) -> None:
        """With `sharing`, the connections are those of that one, and stay open when this is closed."""
        self.server = server
        self._abort = Abort()
        self._owns_client = sharing is None
        self._client: httpx.Client = _client(server) if sharing is None else sharing._client

    def close(self) -> None:
        """Close all connections, unless they are another's."""
        if self._owns_client:
            self._client.close()

    def abort(self) -> None:
        """End every stream of this session at once, from any thread, by Stopped; those to come, too."""
        self._abort.tell()

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any] | Comment]:
        """POST `body` and yield the events of the answer as they come, without `[DONE]`.

        An error event is raised. Closing the iterator closes the connection, which ends the request on
        the server. An answer that ends without `[DONE]` just ends: the caller knows what is missing.
        """
        with self._answer("POST", path, json=body) as response:
            for event in parse_events(response.iter_bytes()):
                match event:
                    case Comment():
                        yield event
                    case Data("[DONE]"):
                        continue  # to the answer's very end, or the server would see a client that left
                    case Data(text):
                        told = json.loads(text)
                        if isinstance(told.get("error"), dict):  # a loaded model has an `error` too: a text
                            raise self.explained(_server_error(told["error"], status=None), body)
                        yield told

    def explained(self, error: ServerError, body: Mapping[str, Any] | None) -> ServerError:
        """`error`, which the request `body` met, with more to go on where more is known."""
        return error

    @contextmanager
    def _answer(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """An answer that comes bit by bit; `abort` ends it."""
        with (
            self._told_clearly(),
            self._client.stream(method, self._url(path), **request) as response,
            self._abort.covers(response),
        ):
            self._check(response, request.get("json"))
            yield response

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        with self._told_clearly():
            response = self._client.request(method, self._url(path), json=body)
            self._check(response, body)
            answer: dict[str, Any] = response.json()
            return answer

    def _url(self, path: str) -> str:
        return self.server.url + path

    def _check(self, response: httpx.Response, body: Mapping[str, Any] | None) -> None:
        if response.is_success:
            return
        try:
            error = _server_error(json.loads(response.read())["error"], status=response.status_code)
        except (ValueError, KeyError, TypeError):
            raise ServerError(
                f"{self.server.url} answered {response.status_code} {response.reason_phrase}, and not as a "
                "samovar server does. Is that its URL, and is samovar installed beside that Jupyter server?",
                status=response.status_code,
            ) from None
        raise self.explained(error, body)

    @contextmanager
    def _told_clearly(self) -> Iterator[None]:
        """Network trouble as one of our errors."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NoServer(
                f"The samovar server at {self.server.url} does not answer: {error}. Start it again with "
                f"`samovar serve` or `jupyter lab`. (Its address is from {self.server.source}.)"
            ) from None
        except (httpx.TransportError, ValueError) as error:  # ValueError: what came is no JSON or no UTF-8
            raise ConnectionLost(
                f"The connection to {self.server.url} broke ({error}). Run this again."
            ) from None


def _server_error(told: Mapping[str, Any], *, status: int | None) -> ServerError:
    return ServerError(str(told["message"]), status=status, code=told.get("code"), param=told.get("param"))


def _client(server: Server) -> httpx.Client:
    return httpx.Client(
        transport=transport_for(server.url),
        headers={"Authorization": f"Bearer {server.token}"} if server.token else {},
        # Loading and generating take as long as they take; the user can interrupt.
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
    )
