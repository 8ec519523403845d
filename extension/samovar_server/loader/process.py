"""One worker process: started, told what to load, watched, ended.

A worker leads its own session, so that a Ctrl-C in the server's terminal does not reach it and its
helpers end with it. It never outlives the server: when the server ends, however it ends, the worker's
stdin reaches its end and the worker leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

from samovar_server.errors import (
    BackendUnavailable,
    InsufficientMemory,
    InvalidRequest,
    LoadFailed,
    SamovarError,
)
from samovar_server.loader.options import LoadProgress, ProgressCallback
from samovar_server.loader.spec import (
    Failed,
    Imported,
    Progress,
    ProtocolError,
    Ready,
    WorkerSpec,
    parse_event,
    spec_line,
)

LINE_LIMIT = 1024 * 1024
"""Bytes. A longer line, which only a library's stray print can be, is logged in pieces."""

LAST_WORDS_SECONDS = 1.0
"""How long an ended worker's last log lines are waited for."""

_FAILURES: dict[str, type[SamovarError]] = {
    error.code: error for error in (LoadFailed, InsufficientMemory, InvalidRequest, BackendUnavailable)
}


class WorkerProcess:
    """A worker from its start to its end. Make one with `spawn`, give it a model with `load`."""

    def __init__(self, process: asyncio.subprocess.Process, log: logging.Logger) -> None:
        assert process.stdin and process.stdout and process.stderr
        self._process = process
        self._log = log
        self._stdin, self._stdout = process.stdin, process.stdout
        self._exit = asyncio.create_task(self._reap())
        self._readers = [asyncio.create_task(self._forward(process.stderr))]

    @classmethod
    async def spawn(
        cls, command: Sequence[str], log: logging.Logger, env: Mapping[str, str] | None = None
    ) -> WorkerProcess:
        """Start `command`; `env` is added to the server's environment."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                limit=LINE_LIMIT,
                env={**os.environ, **(env or {})},
            )
        except OSError as error:
            raise LoadFailed(f"The worker process could not be started: {error.strerror}.") from error
        log.debug("worker %d started", process.pid)
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The process id, also after the end."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process runs, asked of the system: `exited` may be told a moment later."""
        if self._process.returncode is not None or self._exit.done():
            return False
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    async def exited(self) -> str:
        """Wait for the process to end; says how it ended."""
        return describe_exit(await asyncio.shield(self._exit))

    async def load(self, spec: WorkerSpec, report: ProgressCallback, timeout: float) -> Ready:
        """Have the process load a model, within `timeout` seconds; to be called once.

        Raises LoadFailed with the worker's own reason, with how the process ended, or at the timeout.
        The caller ends the process then, as it does when it is cancelled.
        """
        report(LoadProgress("importing", 0.0))
        try:
            async with asyncio.timeout(timeout):
                return await self._load(spec, report)
        except TimeoutError:
            raise LoadFailed(
                f"{spec.model_name} was not loaded within {timeout:g} s. "
                "If it needs longer, raise c.Workbench.load_timeout; else see the server's log."
            ) from None
        finally:
            self._readers.append(asyncio.create_task(self._forward(self._stdout)))

    async def stop(self) -> None:
        """End the process at once, and everything it started, and wait until it is gone."""
        if self.alive():
            self._kill_group()
        await asyncio.shield(self._exit)
        self._stdin.close()
        _, unfinished = await asyncio.wait(self._readers, timeout=LAST_WORDS_SECONDS)
        for reader in unfinished:
            reader.cancel()

    async def _reap(self) -> int:
        code = await self._process.wait()
        self._kill_group()  # what a crashed worker had started
        return code

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _load(self, spec: WorkerSpec, report: ProgressCallback) -> Ready:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: the loop below says how
            self._stdin.write(spec_line(spec))
            await self._stdin.drain()
        while (line := await read_line(self._stdout)) is not None:
            try:
                event = parse_event(line)
            except ProtocolError:
                self._log_line(line)
                continue
            match event:
                case Imported():
                    report(LoadProgress("weights", 0.0))
                case Progress(phase, fraction, bytes_done, bytes_total):
                    report(LoadProgress(phase, fraction, bytes_done, bytes_total))
                case Failed(code, message):
                    raise _FAILURES.get(code, LoadFailed)(message)
                case Ready():
                    return event
        ending = await self.exited()
        raise LoadFailed(
            f"The worker process of {spec.model_name} {ending} while it loaded. See the server's log."
        )

    async def _forward(self, stream: asyncio.StreamReader) -> None:
        while (line := await read_line(stream)) is not None:
            self._log_line(line)

    def _log_line(self, line: bytes) -> None:
        if text := line.decode(errors="replace").rstrip():
            self._log.info("worker %d: %s", self.pid, text)


async def read_line(stream: asyncio.StreamReader) -> bytes | None:
    """The next line without its end; None at the end of the stream. Overlong lines come in pieces."""
    try:
        return (await stream.readuntil(b"\n"))[:-1]
    except asyncio.IncompleteReadError as error:
        return error.partial or None
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)


def describe_exit(code: int) -> str:
    """How a process ended, to follow its name in a sentence; negative codes are signals."""
    if code >= 0:
        return f"ended with exit code {code}"
    if -code == signal.SIGKILL:
        return "was killed (SIGKILL, as the system does when memory runs out)"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
