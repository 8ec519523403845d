"""The service that a JupyterHub's users share, as one user's own server sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Self
from urllib.parse import urlsplit

import httpx

from samovar_server.errors import ServiceUnavailable

SERVICE_URL = "SAMOVAR_SERVICE_URL"
"""The environment variable by which a user's server is told of the service: the URL of the service's /v1."""

HUB_TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105  # the variable's name
CONNECT_SECONDS = 10.0
RETRY_SECONDS = 5

AWAY = (
    "The service that runs the models does not answer. If it is restarting, it will be back within a minute: "
    "send the request again then, or tell the administrator of this JupyterHub."
)
BROKEN = (
    "The service that runs the models broke off in the middle of this answer. It may be restarting: send the "
    "request again in a minute."
)
STALE = (
    "The service that runs the models does not know this server any more. Stop your server in the Hub's "
    "control panel and start it again."
)


class ServiceAnswer:
    """The service's answer, whose headers are here and whose body is still to come."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names in any case."""
        return self._response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. To be read once; ServiceUnavailable when it breaks off."""
        with _explained(BROKEN):
            async for chunk in self._response.aiter_raw():
                yield chunk

    async def body(self) -> bytes:
        """The whole body; ServiceUnavailable when it breaks off."""
        return b"".join([chunk async for chunk in self.chunks()])


class SharedService:
    """Sends requests to the service at `url`, in the name of the user whose token of the Hub `token` is."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.in_flight = 0
        """Requests that work for the user; one that only listens to events is none."""
        self._token = token
        self._client = httpx.AsyncClient(
            # The administrator names the service; a proxy from the environment is for the world outside.
            trust_env=False,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            # A connection serves one request, so that closing it always and only ends that request.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    @classmethod
    def given(cls, environ: Mapping[str, str]) -> Self | None:
        """The service that the environment names; None when it names none. ValueError when it cannot be."""
        url = environ.get(SERVICE_URL)
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not parts.path.endswith("/v1"):
            raise ValueError(
                f"{SERVICE_URL} has to look like http://127.0.0.1:8095/services/samovar/v1, not like {url}."
            )
        token = environ.get(HUB_TOKEN)
        if not token:
            raise ValueError(
                f"{SERVICE_URL} is for the servers that a JupyterHub starts, and {HUB_TOKEN} is not set. "
                f"Without {SERVICE_URL} this server runs models itself."
            )
        return cls(url, token)

    @asynccontextmanager
    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[ServiceAnswer]:
        """Send a request; `path` is what follows /v1, quoted. Leaving the context ends it at the service.

        Raises ServiceUnavailable when the service cannot be reached, or does not know the token.
        """
        request = self._client.build_request(
            method,
            self.url + path,
            headers={**headers, "Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"},
            content=body,
        )
        working = method == "POST"
        self.in_flight += working
        try:
            with _explained(AWAY):
                response = await self._client.send(request, stream=True)
            try:
                if response.status_code == httpx.codes.UNAUTHORIZED:
                    raise ServiceUnavailable(STALE)
                yield ServiceAnswer(response)
            finally:
                await response.aclose()
        finally:
            self.in_flight -= working

    async def close(self) -> None:
        """Close what is still open. Nothing can be sent after it."""
        await self._client.aclose()


@contextmanager
def _explained(message: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise ServiceUnavailable(message, retry_after=RETRY_SECONDS) from error
