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
from samovar_server.loader.pipes import STDIN, ChildPipes
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

LAST_WORDS_SECONDS = 1.0
"""How long an ended worker's last log lines are waited for."""

_FAILURES: dict[str, type[SamovarError]] = {
    error.code: error for error in (LoadFailed, InsufficientMemory, InvalidRequest, BackendUnavailable)
}


class WorkerProcess:
    """A worker from its start to its end. Make one with `spawn`, give it a model with `load`."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: ChildPipes) -> None:
        self._transport = transport
        self._pipes = pipes
        self._pid = transport.get_pid()
        # What a crashed worker had started goes with it.
        pipes.exit_code.add_done_callback(lambda _: self._kill_group())

    @classmethod
    async def spawn(
        cls, command: Sequence[str], log: logging.Logger, env: Mapping[str, str] | None = None
    ) -> WorkerProcess:
        """Start `command`; `env` is added to the server's environment. Raises LoadFailed."""
        try:
            transport, pipes = await asyncio.get_running_loop().subprocess_exec(
                lambda: ChildPipes(log),
                *command,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        except OSError as error:
            raise LoadFailed(f"The worker process could not be started: {error.strerror}.") from error
        return cls(transport, pipes)

    @property
    def pid(self) -> int:
        """The process id, also after the end."""
        return self._pid

    def alive(self) -> bool:
        """Whether the process runs, asked of the system: `exited` may be told a moment later."""
        if self._pipes.exit_code.done():
            return False
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    async def exited(self) -> str:
        """Wait for the process to end; says how it ended."""
        return describe_exit(await asyncio.shield(self._pipes.exit_code))

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
            self._pipes.log_stdout()

    async def stop(self) -> None:
        """End the process at once, and everything it started, and wait until it is gone."""
        if self.alive():
            self._kill_group()
        await asyncio.shield(self._pipes.exit_code)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._pipes.outputs_closed.wait()
        self._transport.close()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _load(self, spec: WorkerSpec, report: ProgressCallback) -> Ready:
        stdin = self._transport.get_pipe_transport(STDIN)
        assert isinstance(stdin, asyncio.WriteTransport)
        stdin.write(spec_line(spec))  # if it has ended already, the loop below says how
        while (line := await self._pipes.lines.get()) is not None:
            try:
                event = parse_event(line)
            except ProtocolError:
                self._pipes.log_line(line)
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
