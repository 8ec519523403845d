"""A child process's pipes as lines, and its end as a future.

Not asyncio.subprocess.Process: its `wait` returns only when every pipe is closed as well (Python
3.11), which a process that a crashed worker had started can put off for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

STDIN, STDOUT, STDERR = 0, 1, 2

LINE_LIMIT = 64 * 1024
"""Bytes. A longer line, which only a library's stray print can be, comes in pieces."""


class LineSplitter:
    """Cuts a stream of bytes into lines without their ends."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        self._rest += data
        *lines, rest = bytes(self._rest).split(b"\n")
        pieces = [piece for line in lines for piece in self._pieces(line)]
        *full, last = self._pieces(rest)
        self._rest = bytearray(last)
        return pieces + full

    def flush(self) -> list[bytes]:
        """What is left at the end of the stream."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest else []

    def _pieces(self, line: bytes) -> list[bytes]:
        return [line[start : start + self._limit] for start in range(0, len(line), self._limit)] or [b""]


class ChildPipes(asyncio.SubprocessProtocol):
    """Logs each line of stderr; `lines` has those of stdout, None at its end."""

    def __init__(self, log: logging.Logger) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.outputs_closed = asyncio.Event()
        self._log = log
        self._outputs = {STDOUT: LineSplitter(), STDERR: LineSplitter()}
        self._on_line: dict[int, Callable[[bytes], None]] = {
            STDOUT: self.lines.put_nowait,
            STDERR: self.log_line,
        }

    def log_line(self, line: bytes) -> None:
        """Pass a line on to the server's log."""
        if text := line.decode(errors="replace").rstrip():
            self._log.info("worker %d: %s", self._transport.get_pid(), text)

    def log_stdout(self) -> None:
        """From now on log stdout as well, and what has come on it that nobody has taken."""
        while not self.lines.empty():
            if (line := self.lines.get_nowait()) is not None:
                self.log_line(line)
        self._on_line[STDOUT] = self.log_line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Bytes of stdout or stderr."""
        for line in self._outputs[fd].feed(data):
            self._on_line[fd](line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """The end of a pipe."""
        if fd == STDIN:
            return
        for line in self._outputs.pop(fd).flush():
            self._on_line[fd](line)
        if fd == STDOUT:
            self.lines.put_nowait(None)
        if not self._outputs:
            self.outputs_closed.set()

    def process_exited(self) -> None:
        """The process has ended; what it wrote last may still be on its way."""
        code = self._transport.get_returncode()
        assert code is not None
        self.exit_code.set_result(code)
