"""An HTTP proxy on a loopback port, for which every host is one server of the test's. It refuses tunnels."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class FakeProxy:
    """What it was asked for (method and address), with which Proxy-Authorization."""

    address: str = ""
    asked: list[str] = field(default_factory=list)
    credentials: set[str | None] = field(default_factory=set)


@contextmanager
def proxying(target: str) -> Iterator[FakeProxy]:
    """Send everything to the server at the URL `target`, until the context ends."""
    proxy = FakeProxy()
    server_address = urlsplit(target).netloc

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._forward()

        def do_HEAD(self) -> None:
            self._forward()

        def _forward(self) -> None:
            self._note()
            url = urlsplit(self.path)
            connection = http.client.HTTPConnection(server_address)
            headers = {name: text for name, text in self.headers.items() if not name.startswith("Proxy-")}
            connection.request(self.command, f"{url.path}?{url.query}", headers=headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, text in answer.getheaders():
                self.send_header(name, text)
            self.end_headers()
            while data := answer.read(65_536):
                self.wfile.write(data)
            connection.close()

        def do_CONNECT(self) -> None:
            self._note()
            self.send_error(403)

        def _note(self) -> None:
            proxy.asked.append(f"{self.command} {self.path}")
            proxy.credentials.add(self.headers["Proxy-Authorization"])

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
