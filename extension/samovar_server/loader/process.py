"""One worker process: started, told what to load, watched, ended.

A worker leads its own session, so that a Ctrl-C in the server's terminal does not reach it and its
helpers end with it. It never outlives the server: when the server ends, however it ends, the worker's
stdin reaches its end and the worker leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from samovar_server.errors import (
    BackendUnavailable,
    InsufficientMemory,
    InvalidRequest,
    LoadFailed,
    SamovarError,
)
from samovar_server.loader.child import ChildProcess
from samovar_server.loader.failure import describe_exit, from_exit
from samovar_server.loader.options import LoadProgress, ProgressCallback
from samovar_server.loader.spec import (
    Failed,
    Imported,
    Progress,
    ProtocolError,
    Ready,
    Spec,
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

    def __init__(self, child: ChildProcess) -> None:
        self._child = child

    @classmethod
    def spawn(cls, command: Sequence[str], log: logging.Logger, env: Mapping[str, str]) -> WorkerProcess:
        """Start `command`; `env` is added to the server's environment. Raises LoadFailed."""
        try:
            return cls(ChildProcess(command, {**os.environ, **env}, log))
        except OSError as error:
            raise LoadFailed(f"The worker process could not be started: {error.strerror}.") from error

    @property
    def pid(self) -> int:
        """The process id, also after the end."""
        return self._child.pid

    def alive(self) -> bool:
        """Whether the process runs, asked of the system right now: `exited` is told a moment later."""
        return self._child.alive()

    def has_imported(self) -> bool:
        """Whether it has told that its libraries are imported, and waits for a model."""
        return not self._child.lines.empty()

    async def exited(self) -> str:
        """Wait for the process to end; says how it ended."""
        return describe_exit(await asyncio.shield(self._child.exit_code))

    async def load(self, spec: Spec, report: ProgressCallback, timeout: float) -> Ready:
        """Have the process load a model, within `timeout` seconds; to be called once.

        Raises the worker's own reason, what it means how the process ended, or LoadFailed at the timeout.
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
            self._child.log_stdout()

    async def stop(self) -> None:
        """End the process at once, and everything it started, and wait until it is gone."""
        self._child.kill()
        await asyncio.shield(self._child.exit_code)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._child.outputs_closed.wait()
        self._child.close()

    async def _load(self, spec: Spec, report: ProgressCallback) -> Ready:
        self._child.write(spec_line(spec))
        while (line := await self._child.lines.get()) is not None:
            try:
                event = parse_event(line)
            except ProtocolError:
                self._child.log_line(line)
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
        raise from_exit(spec.model_name, await asyncio.shield(self._child.exit_code))
