"""The one question that the service asks a JupyterHub: whose token is this?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

USE = "access:services!service=samovar"


def user(name: str, *scopes: str, **more: Any) -> dict[str, Any]:
    """What the Hub tells of a token."""
    return {"kind": "user", "name": name, "groups": [], "scopes": [USE, *scopes], **more}


@dataclass
class FakeHub:
    """Knows the owners of `tokens`; `asked` counts the questions about each. `broken`: it fails."""

    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    broken: bool = False
    url: str = ""

    def start(self) -> HTTPServer:
        """Serve on a free port of this machine; `url` is that of the Hub's API."""
        hub = self

        class User(web.RequestHandler):
            def get(self) -> None:
                token = self.request.headers["Authorization"].removeprefix("token ")
                hub.asked[token] += 1
                if hub.broken:
                    raise web.HTTPError(502)
                if token not in hub.tokens:
                    raise web.HTTPError(403)
                self.finish(hub.tokens[token])

        (socket,) = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(web.Application([("/hub/api/user", User)]))
        server.add_socket(socket)
        self.url = f"http://127.0.0.1:{socket.getsockname()[1]}/hub/api"
        return server
