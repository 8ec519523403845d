"""From the server to a worker: a request's bytes go over, the answer's bytes come back as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Protocol

import httpx

from samovar_server import loopback
from samovar_server.cache.lease import Lease


class WorkerAnswer(Protocol):
    """A worker's HTTP answer whose headers are here and whose body is still to come."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    def header(self, name: str) -> str | None:
        """The value of a header; None when the worker sent none."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. To be read once."""

    async def body(self) -> bytes:
        """The whole body."""


class RemoteAnswer:
    """The answer of a server on another machine."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status_code

    def header(self, name: str) -> str | None:
        """The value of a header; None when the server sent none."""
        value: str | None = self._response.headers.get(name)
        return value

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. To be read once."""
        return self._response.aiter_raw()

    async def body(self) -> bytes:
        """The whole body."""
        return await self._response.aread()


class Relay:
    """Sends requests to workers. One is shared by all routes of a server."""

    def __init__(self) -> None:
        self._outside = httpx.AsyncClient()

    @asynccontextmanager
    async def post(self, lease: Lease, path: str, body: bytes) -> AsyncIterator[WorkerAnswer]:
        """Send `body`, which is JSON, to the leased worker; leaving the context ends the request there.

        Raises what `lease.failure()` says when the worker cannot be reached or breaks off its answer, what
        `lease.silence()` says after too long a silence, and what a refusal means when the worker is of
        another engine.
        """
        body = body if lease.dialect is None else lease.dialect.request(body)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **lease.headers}
        if lease.secret:
            headers["Authorization"] = f"Bearer {lease.secret}"
        try:
            async with self._send(lease, path, headers, body) as answer:
                if lease.dialect is not None and answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    retry_after = answer.header("Retry-After")
                    raise lease.dialect.error(answer.status, await answer.body(), retry_after)
                yield answer
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise lease.silence() from error
        except (httpx.TransportError, loopback.ConnectionBroken) as error:
            raise lease.failure() from error

    def _send(
        self, lease: Lease, path: str, headers: Mapping[str, str], body: bytes
    ) -> AbstractAsyncContextManager[WorkerAnswer]:
        url = lease.endpoint(path)
        if lease.timeout is None:
            return loopback.post(url, headers, body)
        return self._post_outside(url, headers, body, lease.timeout)

    @asynccontextmanager
    async def _post_outside(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> AsyncIterator[WorkerAnswer]:
        limits = httpx.Timeout(timeout, connect=loopback.CONNECT_SECONDS)
        async with self._outside.stream(
            "POST", url, headers=headers, content=body, timeout=limits
        ) as response:
            yield RemoteAnswer(response)

    async def close(self) -> None:
        """Close what is still open. The relay sends nothing after it."""
        await self._outside.aclose()
