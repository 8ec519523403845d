"""From the server to a worker: a request's bytes go over, the answer's bytes come back as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from samovar_server.cache.lease import Lease
from samovar_server.errors import SamovarError
from samovar_server.loader.dialect import Dialect

CONNECT_SECONDS = 10.0
"""A worker listens on this machine and accepts at once; one that does not is hung."""


class WorkerAnswer:
    """A worker's HTTP answer whose headers are here and whose body is still to come."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status_code

    def header(self, name: str) -> str | None:
        """The value of a header; None when the worker sent none."""
        value: str | None = self._response.headers.get(name)
        return value

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, untouched. To be read once."""
        return self._response.aiter_raw()

    async def body(self) -> bytes:
        """The whole body."""
        return await self._response.aread()


class Relay:
    """Sends requests to workers. One is shared by all routes of a server."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            # Loopback only: a proxy from the environment must never see prompts or secrets.
            trust_env=False,
            # A connection serves one request, so that closing it always and only ends that request.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self._outside = httpx.AsyncClient()

    @asynccontextmanager
    async def post(self, lease: Lease, path: str, body: bytes) -> AsyncIterator[WorkerAnswer]:
        """Send `body`, which is JSON, to the leased worker; leaving the context ends the request there.

        Raises what `lease.failure()` says when the worker cannot be reached or breaks off its answer, what
        `lease.silence()` says after too long a silence, and what a refusal means when the worker is of
        another engine.
        """
        body = body if lease.dialect is None else lease.dialect.request(body)
        client = self._client if lease.timeout is None else self._outside
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if lease.secret:
            headers["Authorization"] = f"Bearer {lease.secret}"
        request = client.build_request(
            "POST",
            lease.endpoint(path),
            content=body,
            headers=headers,
            timeout=httpx.Timeout(lease.timeout, connect=CONNECT_SECONDS),
        )
        try:
            response = await client.send(request, stream=True)
            try:
                if lease.dialect is not None and not response.is_success:
                    raise await _refusal(lease.dialect, response)
                yield WorkerAnswer(response)
            finally:
                await response.aclose()
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise lease.silence() from error
        except httpx.TransportError as error:
            raise lease.failure() from error

    async def close(self) -> None:
        """Close what is still open. The relay sends nothing after it."""
        await self._client.aclose()
        await self._outside.aclose()


async def _refusal(dialect: Dialect, response: httpx.Response) -> SamovarError:
    return dialect.error(response.status_code, await response.aread(), response.headers.get("Retry-After"))
