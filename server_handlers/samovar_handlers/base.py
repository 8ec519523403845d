"""What every route below /v1 has in common: who may call, what an error looks like, who has gone."""

from __future__ import annotations

import asyncio
import hmac
import re
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, cast

from jupyter_core.utils import ensure_async
from jupyter_server import CallContext
from jupyter_server.auth.identity import User
from jupyter_server.auth.utils import HTTP_METHOD_TO_AUTH_ACTION
from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.iostream import StreamClosedError

from samovar_server.callers import OWNER, Caller
from samovar_server.errors import (
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    PermissionDenied,
    RouteNotFound,
    SamovarError,
    ServiceUnavailable,
    TooLarge,
)
from samovar_server.quotas.rules import Action
from samovar_server.relay import Relay
from samovar_server.request_log import REQUEST_ID
from samovar_server.workbench import Workbench

SERVICES = "samovar_services"
"""The key of `Services`, or of another `Door`, in the settings of the web application."""

NO_CREDENTIALS = (
    "Missing or unknown credentials. Send the header 'Authorization: Bearer <token>' with the token of "
    "this Jupyter server (`jupyter server list` shows it) or, under JupyterHub, one of the Hub's Token page."
)
FOREIGN_HOST = (
    "This server does not answer under that host name. Use localhost or an IP address of loopback, or "
    "start Jupyter with --ServerApp.allow_remote_access=True."
)
FOREIGN_ORIGIN = (
    "A page of another origin may not call this server with a login cookie. Use 'Authorization: Bearer "
    "<token>', or allow the origin with --ServerApp.allow_origin."
)
FOREIGN_SERVER = (
    "This server belongs to another user of the Hub, or the token is not meant for it. Use the URL of your "
    "own server, or a token with the scope access:servers."
)
UNIDENTIFIED = (
    "Who calls cannot be found out now: what knows it, under JupyterHub the Hub, does not answer. It may be "
    "restarting: send the request again in a few seconds."
)
NO_XSRF = (
    "A request without a token needs the header X-XSRFToken with the value of the _xsrf cookie. Programs "
    "send 'Authorization: Bearer <token>' instead."
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Who may come in. `token` opens /v1 and nothing else of the server; None: there is no such token.

    `caller_of` says who a user is whom the identity provider has let in; by itself a server belongs to one
    person. `work` are the requests that are being answered, for a server that wants to stop after them.
    """

    token: str | None = field(repr=False)
    caller_of: Callable[[User], Caller] = lambda user: OWNER
    work: set[asyncio.Task[None]] = field(default_factory=set, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services(Door):
    """What the routes work with, behind the door."""

    workbench: Workbench
    relay: Relay


class GuardedHandler(APIHandler):
    """Base of everything below /v1. Its `prepare` admits a caller or raises; methods only do their work.

    Jupyter's identity provider and authorizer decide, in the Hub's service too: there they are the Hub's.
    Raise any SamovarError to answer with it.
    """

    auth_resource = "samovar"
    caller: Caller
    """Who calls; set by `prepare` on every route that is not open to everybody."""
    _work: asyncio.Task[None] | None = None
    _client_gone = False

    @property
    def door(self) -> Door:
        """Who may come in."""
        return cast("Door", self.settings[SERVICES])

    @cached_property
    def request_id(self) -> str:
        """The caller's X-Request-Id if it is a sane one, else a new one; answers and logs carry it."""
        given = self.request.headers.get("X-Request-Id", "")
        return given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"

    def set_default_headers(self) -> None:
        """Headers of every answer, errors included."""
        super().set_default_headers()
        self.set_header("X-Request-Id", self.request_id)

    # Who may call

    async def prepare(self) -> None:  # type: ignore[override]  # as APIHandler does
        """Admit the caller by the scoped token or by Jupyter's own identity, or raise."""
        REQUEST_ID.set(self.request_id)
        if not self.check_host():
            raise PermissionDenied(FOREIGN_HOST)
        if self._has_scoped_token():
            self._admit_scoped_token()
        else:
            await self._admit_jupyter_user()
        self.update_api_activity()  # at the start too: a server must not be culled in a long stream

    def _sent_token(self) -> str | None:
        """The token of the Authorization header; None when there is none."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() in {"bearer", "token"} else None

    def _has_scoped_token(self) -> bool:
        sent, token = self._sent_token(), self.door.token
        return sent is not None and token is not None and hmac.compare_digest(sent.encode(), token.encode())

    def _admit_scoped_token(self) -> None:
        # Jupyter's own prepare would ask its identity provider, which does not know this token, and
        # then its authorizer, which may know no such user. This is what it does beside that.
        CallContext.set(CallContext.JUPYTER_HANDLER, self)
        self.current_user = self._jupyter_current_user = User(username="samovar-kernel")
        self.caller = OWNER  # the token is given to the kernels of this server's owner
        self._token_authenticated = True  # a header, not a cookie: no XSRF check
        self.set_cors_headers()

    async def _admit_jupyter_user(self) -> None:
        try:
            await super().prepare()
        except web.HTTPError as refusal:
            raise await self._explained(refusal) from refusal
        method, user = self.request.method, self.current_user
        if getattr(getattr(self, method.lower()), "__allow_unauthenticated", False):
            return
        if user is None or await self._sent_wrong_token():
            raise await self._stranger()
        action = HTTP_METHOD_TO_AUTH_ACTION[method]
        allowed = self.authorizer.is_authorized(self, user, action, self.auth_resource)
        if not await ensure_async(allowed):
            raise PermissionDenied(f"{user.username} may not {action} {self.auth_resource} on this server.")
        self.caller = self.door.caller_of(user)

    async def _stranger(self) -> SamovarError:
        """What to tell somebody whom Jupyter does not know as a user of this server.

        On a user's own server under JupyterHub it may be another user of the Hub, whose token is not wrong.
        """
        hub = getattr(self.identity_provider, "hub_auth", None)
        if hub is not None and await hub.get_user(self, sync=False) is not None:
            return PermissionDenied(FOREIGN_SERVER)
        return InvalidApiKey(NO_CREDENTIALS)

    async def _sent_wrong_token(self) -> bool:
        """Whether it was a login cookie that Jupyter went by, beside a token that it does not know.

        Programs have such cookies, too: Jupyter sets one in its answer to a good token, and HTTP clients
        keep it. With a token that has become stale they are to see 401, not a complaint about XSRF.
        """
        if self._sent_token() is None or self.token_authenticated or not self.identity_provider.auth_enabled:
            return False
        return await ensure_async(self.identity_provider.get_user_cookie(self)) is not None

    async def _explained(self, refusal: web.HTTPError) -> SamovarError | web.HTTPError:
        """Jupyter's refusal with the status that API clients understand, and what to do about it."""
        if not hasattr(self, "_jupyter_current_user"):  # the identity provider itself failed
            return ServiceUnavailable(UNIDENTIFIED, retry_after=5) if refusal.status_code >= 500 else refusal
        # Jupyter complains of a missing XSRF token before it looks whether there is a user at all.
        if self._jupyter_current_user is None or await self._sent_wrong_token():
            return await self._stranger()
        if refusal.status_code == 404:
            return PermissionDenied(FOREIGN_ORIGIN)
        return PermissionDenied(NO_XSRF) if refusal.status_code == 403 else refusal

    # What came in

    def json_body(self) -> bytes:
        """The body, not yet parsed; InvalidRequest when it is declared to be something else than JSON."""
        declared = self.request.headers.get("Content-Type", "application/json")
        if declared.partition(";")[0].strip().lower() != "application/json":
            raise InvalidRequest(
                "Send the request body as JSON, with the header 'Content-Type: application/json'."
            )
        return self.request.body

    # What goes out

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with OpenAI's error shape, whatever went wrong."""
        error = self.as_error((kwargs.get("exc_info") or (None, None, None))[1])
        self.set_status(error.status)
        if error.retry_after is not None:
            self.set_header("Retry-After", str(error.retry_after))
        if isinstance(error, InvalidApiKey):
            self.set_header("WWW-Authenticate", "Bearer")
        if isinstance(error, MethodNotAllowed):
            self.set_header("Allow", ", ".join(implemented_methods(type(self))))
        if getattr(self, "_jupyter_current_user", None) is not None:
            self.set_cors_headers()  # Tornado cleared them; without them a browser hides the error
        self.finish(error.body())

    def as_error(self, exception: BaseException | None) -> SamovarError:
        """What the client is told of `exception`."""
        if isinstance(exception, SamovarError):
            return exception
        match exception:
            case web.HTTPError(status_code=405):
                methods = ", ".join(implemented_methods(type(self)))
                return MethodNotAllowed(f"{self.request.path} supports: {methods or 'no method'}.")
            case web.HTTPError(status_code=404):
                return RouteNotFound(f"There is no {self.request.path}. GET /v1 lists the routes.")
            case web.HTTPError(status_code=401):
                return InvalidApiKey(NO_CREDENTIALS)
            case web.HTTPError(status_code=403):
                return PermissionDenied("This caller is not allowed to use this server.")
            case web.HTTPError(status_code=status) if status < 500:
                return InvalidRequest(
                    "The request is malformed. Send a JSON body with 'Content-Type: application/json'."
                )
        return SamovarError(
            f"The server failed unexpectedly. Its log has the cause under the request id {self.request_id}."
        )

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log an error once; never the request's URL, which may carry a token."""
        where = (self.request.method, self.request.path, self.request_id)
        if isinstance(value, SamovarError | web.HTTPError):
            error = self.as_error(value)
            if error.status >= 500:
                self.log.warning("%s %s (%s): %s", *where, value)
            else:  # the message may quote the request, and so a prompt
                self.log.debug("%s %s (%s): %s, param %s", *where, error.code, error.param)
        else:
            self.log.error("%s %s (%s) failed", *where, exc_info=value)

    # Whether the client is still there

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, which answers the request; a client that goes away cancels it at once."""
        self._work = asyncio.create_task(work)
        self.door.work.add(self._work)
        self._work.add_done_callback(self.door.work.discard)
        try:
            await self._work
        except StreamClosedError:
            self._client_gone = True
        except asyncio.CancelledError:
            if not self._client_gone:
                raise
        finally:
            self._work = None
        if self._client_gone:
            self.log.info("%s (%s): the client went away", self.request.path, self.request_id)

    def on_connection_close(self) -> None:
        """Tornado calls this when the client closes the connection before the answer is complete."""
        super().on_connection_close()
        if self._work is not None:
            self._client_gone = True
            self._work.cancel()


class SamovarHandler(GuardedHandler):
    """Base of the routes that the workbench behind this server answers."""

    @property
    def services(self) -> Services:
        """What the server gave to the routes."""
        return cast("Services", self.settings[SERVICES])

    @property
    def workbench(self) -> Workbench:
        """The models in memory and on disk."""
        return self.services.workbench

    def require(self, action: Action, what: str) -> None:
        """PermissionDenied unless the caller may do `action`; `what` completes "You may not ..."."""
        self.workbench.sharing.gate.require(self.caller, action, what)

    async def prepare(self) -> None:  # type: ignore[override]  # as APIHandler does
        """Admit the caller, and no body that is too large."""
        await super().prepare()
        largest = self.workbench.max_body_bytes
        if len(self.request.body) > largest:
            raise TooLarge(
                f"The request body has {len(self.request.body):,} bytes; at most {largest:,} are accepted "
                "(c.Workbench.max_body_bytes)."
            )


def implemented_methods(handler: type[web.RequestHandler]) -> list[str]:
    """The HTTP methods that `handler` has; OPTIONS, which every route answers, is not named."""
    return [
        name
        for name in handler.SUPPORTED_METHODS
        if name != "OPTIONS"
        and getattr(handler, name.lower()) is not getattr(web.RequestHandler, name.lower())
    ]
