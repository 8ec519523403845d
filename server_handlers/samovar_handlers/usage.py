"""`GET /v1/usage`: what has been used, and what the caller may have."""

from __future__ import annotations

from tornado import web

from samovar_handlers.base import SamovarHandler


class UsageHandler(SamovarHandler):
    """Tokens by user and model."""

    @web.authenticated
    def get(self) -> None:
        """Tell the requests and tokens of the caller (of everybody, to an admin), and the caller's limits."""
        sharing = self.workbench.sharing
        used = sharing.usage.usage(None if self.caller.admin else self.caller.name)
        self.finish(
            {
                "object": "list",
                "data": [usage.as_json() for usage in used],
                "user": self.caller.name,
                "limits": sharing.gate.limits(self.caller).model_dump(),
            }
        )
