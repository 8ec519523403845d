"""A child process: its pipes as lines, its end as a future.

Not asyncio.subprocess. There a start that is cancelled can hang for ever, and (Python 3.11) the end is
told only once every pipe is closed, which a process that a crashed worker had started can put off at
will. Here a start is one synchronous step, and the system is asked for the end itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

LINE_LIMIT = 64 * 1024
"""Bytes. A longer line, which only a library's stray print can be, comes in pieces."""

READ_BYTES = 64 * 1024


class LineSplitter:
    """Cuts a stream of bytes into lines without their ends."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        *lines, rest = (self._rest + data).split(b"\n")
        pieces = [piece for line in lines for piece in self._pieces(line)]
        *full, self._rest = self._pieces(rest)
        return pieces + full

    def flush(self) -> list[bytes]:
        """What is left at the end of the stream."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    def _pieces(self, line: bytes) -> list[bytes]:
        return [line[start : start + self._limit] for start in range(0, len(line), self._limit)] or [b""]


class ChildProcess:
    """A process in a session of its own, from its start (by making the object) to its end.

    `lines` has the lines of stdout, None at its end; those of stderr go to `log`. Raises OSError when
    the process cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: logging.Logger,
        *,
        what: str = "worker",
    ) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.outputs_closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.exit_code: asyncio.Future[int] = self._loop.create_future()
        self._log = log
        self._what = what
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin = self._process.stdin
        self._on_stdout: Callable[[bytes], None] = self.lines.put_nowait
        self._outputs = {self._process.stdout: LineSplitter(), self._process.stderr: LineSplitter()}
        for pipe in self._outputs:
            os.set_blocking(pipe.fileno(), False)
            self._loop.add_reader(pipe, self._read, pipe)
        self._watch_exit()

    @property
    def pid(self) -> int:
        """The process id, also after the end."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process runs, asked of the system right now."""
        return self._process.poll() is None

    def write(self, line: bytes) -> None:
        """Write to stdin: short enough for the pipe to hold it. A process that has ended hears nothing."""
        with suppress(BrokenPipeError):
            if not self._stdin.closed:
                self._stdin.write(line)

    def log_stdout(self) -> None:
        """From now on log stdout as well, and what has come on it that nobody has taken."""
        while not self.lines.empty():
            if (line := self.lines.get_nowait()) is not None:
                self.log_line(line)
        self._on_stdout = self.log_line

    def log_line(self, line: bytes) -> None:
        """Pass a line on to the server's log."""
        if text := line.decode(errors="replace").rstrip():
            self._log.info("%s %d: %s", self._what, self.pid, text)

    def kill(self) -> None:
        """End the process, if it runs, and everything that it started."""
        if self.alive():
            self._kill_session()

    def close(self) -> None:
        """Read no more, though somebody may hold the other ends of the pipes open."""
        for pipe in tuple(self._outputs):
            self._end_of(pipe)

    def _kill_session(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _read(self, pipe: IO[bytes]) -> None:
        data = pipe.read(READ_BYTES)
        if data is None:  # woken for nothing
            return
        if not data:
            self._end_of(pipe)
            return
        for line in self._outputs[pipe].feed(data):
            self._take(pipe, line)

    def _take(self, pipe: IO[bytes], line: bytes) -> None:
        if pipe is self._process.stdout:
            self._on_stdout(line)
        else:
            self.log_line(line)

    def _end_of(self, pipe: IO[bytes]) -> None:
        for line in self._outputs.pop(pipe).flush():
            self._take(pipe, line)
        self._loop.remove_reader(pipe)
        pipe.close()
        if pipe is self._process.stdout:
            self.lines.put_nowait(None)
        if not self._outputs:
            self.outputs_closed.set()

    def _watch_exit(self) -> None:
        try:
            handle = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or not allowed in this container
            threading.Thread(target=self._wait_for_exit, name=f"wait-{self.pid}", daemon=True).start()
            return

        def on_exit() -> None:
            self._loop.remove_reader(handle)
            os.close(handle)
            self._has_exited()

        self._loop.add_reader(handle, on_exit)

    def _wait_for_exit(self) -> None:
        self._process.wait()
        with suppress(RuntimeError):  # the loop has been closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._has_exited)

    def _has_exited(self) -> None:
        self._kill_session()  # what a crashed process had started goes with it
        self._stdin.close()
        self.exit_code.set_result(self._process.wait())
