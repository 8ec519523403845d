"""A Hugging Face Hub of one repo on a loopback port, for the Hub's own client to talk to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.fakes.folders import COMMIT

SMALL = 1000
"""Files of more bytes are stored as the Hub stores large ones: with their sha256."""


@dataclass
class FakeHub:
    """What the Hub has, and what it was asked: `fetched` the files, `tokens` the credentials."""

    repo: str = "org/tiny"
    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    error_code: str | None = None
    wrong_bytes: set[str] = field(default_factory=set)
    url: str = ""
    fetched: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    def metadata(self, name: str) -> dict[str, object]:
        data = self.files[name]
        large = {"lfs": {"sha256": _sha256(data), "size": len(data), "pointerSize": 130}}
        return {"rfilename": name, "size": len(data), "blobId": "0" * 40} | (
            large if len(data) > SMALL else {}
        )

    def tree_entry(self, name: str) -> dict[str, object]:
        data = self.files[name]
        large = {"lfs": {"oid": _sha256(data), "size": len(data), "pointerSize": 130}}
        entry = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
        return entry | (large if len(data) > SMALL else {})

    def etag(self, name: str) -> str:
        data = self.files[name]
        return _sha256(data) if len(data) > SMALL else hashlib.sha1(data).hexdigest()  # noqa: S324 -- git's


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Answer for `hub` at `hub.url` until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            hub.tokens.append(self.headers["Authorization"])
            path = urlsplit(self.path).path
            api = f"/api/models/{hub.repo}"
            if hub.status != 200:
                return self._send(hub.status, b"{}", {"X-Error-Code": hub.error_code or ""})
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                siblings = [hub.metadata(name) for name in hub.files]
                answer = {"id": hub.repo, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}
                return self._send(200, json.dumps(answer).encode())
            if path.startswith(f"{api}/revision/"):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if path == f"{api}/tree/{COMMIT}":
                return self._send(200, json.dumps([hub.tree_entry(name) for name in hub.files]).encode())
            name = path.removeprefix(f"/{hub.repo}/resolve/{COMMIT}/")
            if name not in hub.files:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            data = hub.files[name]
            headers = {"ETag": f'"{hub.etag(name)}"', "X-Repo-Commit": COMMIT}
            if with_body:
                hub.fetched.append(name)
                data = data[::-1] if name in hub.wrong_bytes else data
            return self._send(200, data, headers, with_body=with_body)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, *, with_body: bool = True
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body and self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
