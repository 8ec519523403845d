"""A Hugging Face Hub of one repo on a loopback port, for the Hub's own client to talk to, with faults."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.folders import COMMIT

SMALL = 1000
"""Files of more bytes are stored as the Hub stores large ones: with their sha256."""

PIECE = 64 * 1024


class Zeros:
    """So many zero bytes, which take no memory."""

    def __init__(self, size: int, sha256: str) -> None:
        self.size, self.sha256 = size, sha256

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, wanted: slice) -> bytes:
        start, stop, _ = wanted.indices(self.size)
        return bytes(max(stop - start, 0))


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer for a file.

    After `stall_after` bytes it says nothing more, until the client leaves.
    """

    status: int = 200
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    stall_after: int | None = None
    wrong_bytes: bool = False
    size: int | None = None


@dataclass
class FakeHub:
    """What the Hub has, and what it was asked: `fetched` the files, `ranges` where from, `tokens` by whom.

    `faults` of a file are used up one request of their method each. `on_request` and `on_piece` (with the
    file's name and the position it has been sent to) are called before the Hub goes on. `granted` are the
    tokens that may read a gated repo.
    """

    repo: str = "org/tiny"
    files: dict[str, bytes | Zeros] = field(default_factory=dict)
    status: int = 200
    error_code: str | None = None
    wrong_bytes: set[str] = field(default_factory=set)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    knows_range: bool = True
    redirects: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)
    found: list[dict[str, object]] = field(default_factory=list)
    on_request: Callable[[str], None] = lambda path: None
    on_piece: Callable[[str, int], None] = lambda name, position: None
    url: str = ""
    fetched: list[str] = field(default_factory=list)
    ranges: list[tuple[str, int]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    cdn_tokens: list[str | None] = field(default_factory=list)

    def metadata(self, name: str) -> dict[str, object]:
        data = self.files[name]
        entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": self.git_sha1(name)}
        if len(data) > SMALL:
            entry["lfs"] = {"sha256": self.digest(name), "size": len(data), "pointerSize": 130}
        return entry

    def git_sha1(self, name: str) -> str:
        """Of the file, or of the pointer that git holds in place of a large one."""
        data = self.files[name]
        text = data if isinstance(data, bytes) and len(data) <= SMALL else f"pointer {name}".encode()
        return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()  # noqa: S324 -- git's

    def digest(self, name: str) -> str:
        """By which the Hub names the file: its ETag."""
        data = self.files[name]
        if isinstance(data, Zeros):
            return data.sha256
        return hashlib.sha256(data).hexdigest() if len(data) > SMALL else self.git_sha1(name)


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Answer for `hub` at `hub.url` until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            token = self.headers["Authorization"]
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.asked.append(f"{self.command} {path}")
            hub.on_request(path)
            api = f"/api/models/{hub.repo}"
            if path.startswith("/cdn/"):
                hub.cdn_tokens.append(token)
                return self._file(path.removeprefix("/cdn/"))
            hub.tokens.append(token)
            if hub.status != 200:
                return self._send(hub.status, b"{}", {"X-Error-Code": hub.error_code or ""})
            if path == "/api/models":
                words = parse_qs(url.query)["search"][0].lower()
                found = [model for model in hub.found if words in str(model["id"]).lower()]
                return self._send(200, json.dumps(found).encode())
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                siblings = [hub.metadata(name) for name in hub.files]
                answer: dict[str, object] = {"id": hub.repo, "sha": COMMIT, "siblings": siblings}
                answer |= {"cardData": {"license": "mit"}, "gated": "manual" if hub.gated else False}
                return self._send(200, json.dumps(answer).encode())
            if path.startswith(f"{api}/revision/"):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if hub.gated and token not in {f"Bearer {granted}" for granted in hub.granted}:
                return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            if path == f"{api}/auth-check":
                return self._send(200, b"{}")
            prefix = f"/{hub.repo}/resolve/{COMMIT}/"
            name = path.removeprefix(prefix)
            if not path.startswith(prefix):
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if name not in hub.files:
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            if hub.redirects:
                size = str(len(hub.files[name]))
                linked = {"X-Linked-Etag": f'"{hub.digest(name)}"', "X-Linked-Size": size}
                elsewhere = hub.url.replace("127.0.0.1", "localhost") + f"/cdn/{name}"
                commit = {"X-Repo-Commit": COMMIT}
                return self._send(302, b"", {"Location": elsewhere, **linked, **commit})
            return self._file(name)

        def _file(self, name: str) -> None:
            data = hub.files[name]
            faults = hub.faults.get(name, [])
            fault = faults.pop(0) if faults and self.command == faults[0].method else Fault()
            headers = {"ETag": f'"{hub.digest(name)}"', "X-Repo-Commit": COMMIT, **fault.headers}
            if fault.status != 200:
                return self._send(fault.status, b"{}", headers)
            start, size = 0, len(data) if fault.size is None else fault.size
            wanted = self.headers["Range"]
            if wanted and hub.knows_range:
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            self.send_response(206 if "Content-Range" in headers else 200)
            for key, value in {"Content-Length": str(size - start), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return None
            hub.fetched.append(name)
            hub.ranges.append((name, start))
            wrong = fault.wrong_bytes or name in hub.wrong_bytes
            if fault.stall_after is not None:
                self._body(name, data, start, fault.stall_after, wrong=wrong, size=size)
                self.connection.recv(1)  # which comes to its end when the client leaves
                return None
            return self._body(name, data, start, fault.drop_after, wrong=wrong, size=size)

        def _body(
            self,
            name: str,
            data: bytes | Zeros,
            start: int,
            drop_after: int | None,
            *,
            wrong: bool,
            size: int,
        ) -> None:
            end = size if drop_after is None else min(start + drop_after, size)
            position = start
            while position < end:
                piece = data[position : min(position + PIECE, end)].ljust(min(PIECE, end - position), b"+")
                try:
                    self.wfile.write(piece[::-1] if wrong else piece)
                    position += len(piece)
                    hub.sent[name] = hub.sent.get(name, 0) + len(piece)
                    hub.on_piece(name, position)
                except OSError:  # the client has gone, killed perhaps, or the test says so
                    self.close_connection = True
                    return
            if end < size:
                self.close_connection = True
                # A reset: the client is to lose the connection, as when a cable is pulled.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, address: object) -> None:
            """Clients that are killed leave broken connections, and that is what is tested."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
