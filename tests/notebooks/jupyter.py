"""A Jupyter server as its own process, and notebooks run through it as a browser would."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import output_from_msg
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

START_SECONDS = 60.0
CELL_SECONDS = 240.0
TOKEN = "for-this-test"

Message = dict[str, Any]


Watch = Callable[[NotebookNode], Awaitable[None]]


@dataclass(frozen=True)
class Jupyter:
    """A running server; `url` is its base URL with a slash at its end."""

    url: str
    process: subprocess.Popen[str]

    def kernel(self) -> AbstractAsyncContextManager[Kernel]:
        """A new kernel, started by the server."""
        return new_kernel(self.url, TOKEN)


@dataclass(frozen=True)
class Kernel:
    """A kernel, as a browser sees it."""

    name: str
    client: httpx.AsyncClient
    channels: WebSocketClientConnection
    by_display: dict[str, NotebookNode] = field(default_factory=dict)
    """Outputs that can still change, those of earlier cells as well."""

    async def interrupt(self) -> None:
        """What the button with the square does."""
        (await self.client.post(f"api/kernels/{self.name}/interrupt")).raise_for_status()

    async def run(self, cell: NotebookNode, watch: Watch | None = None) -> None:
        """Run one cell and give it its outputs; `watch` sees the cell whenever they change."""
        async with asyncio.timeout(CELL_SECONDS):
            request = await self._send(cell.source)
            cell.outputs = []
            pending = {"execute_reply", "idle"}
            while pending:
                received = await self.channels.read_message()
                assert received is not None, "the server closed the connection"
                message: Message = json.loads(received)
                if message["parent_header"].get("msg_id") == request:
                    pending.discard(note(message, cell, self.by_display))
                    if watch is not None:
                        await watch(cell)

    async def _send(self, code: str) -> str:
        request = uuid.uuid4().hex
        header = {
            "msg_id": request,
            "msg_type": "execute_request",
            "session": "test",
            "username": "",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {
            "channel": "shell",
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
        }
        await self.channels.write_message(json.dumps(message))
        return request


@asynccontextmanager
async def new_kernel(server: str, token: str) -> AsyncIterator[Kernel]:
    """A kernel that the Jupyter server at `server`, a URL with a slash at its end, has started."""
    authorization = {"Authorization": f"token {token}"}
    async with httpx.AsyncClient(
        base_url=server, headers=authorization, trust_env=False, timeout=START_SECONDS
    ) as client:
        started = await client.post("api/kernels", json={"name": "python3"})
        name = started.raise_for_status().json()["id"]
        url = f"ws{server.removeprefix('http')}api/kernels/{name}/channels"
        channels = await websocket_connect(HTTPRequest(url, headers=authorization))
        try:
            yield Kernel(name, client, channels)
        finally:
            channels.close()
            await client.delete(f"api/kernels/{name}")


async def run_all(server: Jupyter, notebook: Path) -> list[NotebookNode]:
    """The code cells of a notebook after a run in a kernel of its own; a cell that fails ends it."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    async with server.kernel() as kernel:
        for cell in cells:
            await kernel.run(cell)
            assert not failed(cell), f"{cell.source}\n\n{text_of(cell)}"
    return cells


def text_of(cell: NotebookNode) -> str:
    """All that a cell shows, as plain text."""
    return "\n".join(
        output.get("text")
        or output.get("data", {}).get("text/plain")
        or "\n".join(output.get("traceback", []))
        for output in cell.outputs
    )


def failed(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)


def note(message: Message, cell: NotebookNode, by_display: dict[str, NotebookNode]) -> str:
    """Add what `message` shows to the cell; what the message means for the cell's end."""
    kind, content = message["msg_type"], message["content"]
    match kind:
        case "status":
            return str(content["execution_state"])
        case "execute_reply":
            cell.execution_count = content["execution_count"]
        case "update_display_data":
            by_display[content["transient"]["display_id"]].data = NotebookNode(content["data"])
        case "stream" | "display_data" | "execute_result" | "error":
            output = output_from_msg(message)
            cell.outputs.append(output)
            if "display_id" in content.get("transient", {}):
                by_display[content["transient"]["display_id"]] = output
    return str(kind)


@contextmanager
def jupyter(folder: Path, *options: str) -> Iterator[Jupyter]:
    """A Jupyter server with the extension, away from the user's own settings; its log is in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "samovar_server", f"--port={port}", "--allow-root", *options]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    started = threading.Event()
    reader = threading.Thread(target=follow, args=(process, folder / "jupyter.log", started))
    reader.start()
    try:
        log = "see its log: " + str(folder / "jupyter.log")
        assert started.wait(START_SECONDS), f"the server did not start, {log}"
        assert process.poll() is None, f"the server ended, {log}"
        yield Jupyter(f"http://127.0.0.1:{port}/", process)
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        finally:
            process.kill()
            reader.join()


def environment(folder: Path) -> dict[str, str]:
    """Nothing of a server around this test; `samovar` on PATH, as an activated environment has it."""
    around = ("SAMOVAR_", "JPY_", "JUPYTERHUB_", "JUPYTER_SERVER_")
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(around)},
        **own,
        "JUPYTER_TOKEN": TOKEN,
        "IPYTHONDIR": str(folder / "ipython"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def follow(process: subprocess.Popen[str], log: Path, started: threading.Event) -> None:
    """Write the server's output to `log`, and say when it serves, or has ended."""
    assert process.stdout is not None
    with process.stdout, log.open("w") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            if "models are served at" in line:
                started.set()
    started.set()
