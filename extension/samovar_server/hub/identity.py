"""Who calls the service: the Hub says which user a token belongs to, and what it may be used for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_server.auth.identity import IdentityProvider, User
from jupyterhub.services.auth import HubAuth
from tornado import web
from traitlets import Instance

from samovar_server.callers import Caller
from samovar_server.errors import PermissionDenied, ServiceUnavailable

MANAGE = "custom:samovar:manage"
"""The scope of a token whose owner manages the service. Administrators of the Hub do without it."""

HUB_DOWN = (
    "JupyterHub does not answer, and without it nobody can be identified. It may be restarting: send the "
    "request again in a few seconds."
)
RETRY_SECONDS = 5
HUB_SECONDS = 10.0
"""How long the Hub may take to say who calls."""


@dataclass
class HubUser(User):
    """A user of the Hub, as Jupyter's handlers know users."""

    groups: frozenset[str] = frozenset()
    admin: bool = False


def caller_of(user: User) -> Caller:
    """The user as quotas, turns and privacy know him."""
    assert isinstance(user, HubUser)
    return Caller(user.username, user.groups, user.admin)


def user_of(model: Mapping[str, Any]) -> HubUser:
    """The owner of a token, from what the Hub tells of it (`GET /hub/api/user`).

    The Hub tells a token whether its owner is an administrator only if the token may know, which the token of
    a user's own server may not; that is what the scope MANAGE is for. Services have tokens, too, and may
    be named like a user.
    """
    name: str = model["name"]
    return HubUser(
        name if model["kind"] == "user" else f"{model['kind']}:{name}",
        groups=frozenset(model.get("groups", ())),
        admin=bool(model.get("admin")) or MANAGE in model["scopes"],
    )


class HubIdentity(IdentityProvider):
    """Jupyter's handlers ask it who calls. Only tokens count, in the Authorization header; no cookies."""

    hub = Instance(HubAuth, help="Asks the Hub, and remembers its answers for a while.")

    async def get_user(self, handler: web.RequestHandler) -> HubUser | None:
        """The owner of the token that was sent; None when there is none, or the Hub does not know it.

        Raises PermissionDenied when the token is not good for this service, ServiceUnavailable when the Hub
        does not answer.
        """
        token = self.hub.get_token(handler, in_cookie=False)
        if not token:
            return None
        try:
            async with asyncio.timeout(HUB_SECONDS):
                model = await self.hub.user_for_token(token, sync=False)
        except (web.HTTPError, TimeoutError) as error:
            raise ServiceUnavailable(HUB_DOWN, retry_after=RETRY_SECONDS) from error
        if model is None:
            return None
        handler._token_authenticated = True  # type: ignore[attr-defined]  # what Jupyter's own provider sets
        if not self.hub.check_scopes(self.hub.access_scopes, model):
            raise PermissionDenied(
                f"This token of {model['name']} may not use the service; it lacks the scope "
                f"{' or '.join(sorted(self.hub.access_scopes))}. Make a token that has it, or ask the "
                "administrator of the Hub to give it to your role, and to the role `server` for notebooks."
            )
        return user_of(model)

    def get_user_cookie(self, handler: web.RequestHandler) -> None:
        """No user: the service sets no cookies, and goes by none."""
