"""A worker process's side of its pipes; what they carry is described in `samovar_server.loader.spec`."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

from samovar_server.errors import SamovarError
from samovar_server.loader.spec import Failed, WorkerEvent, event_line


class Pipe:
    """The events' way to the server. The process's stdout is turned into its stderr, so that whatever a
    library prints goes to the log.
    """

    def __init__(self) -> None:
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def send(self, event: WorkerEvent) -> None:
        """Write one event. A server that is gone is noticed on stdin."""
        self._out.write(event_line(event))

    def fail(self, error: SamovarError) -> NoReturn:
        """Tell why the load failed, and end the process."""
        self.send(Failed(error.code, error.message))
        sys.exit(1)


def watch_stdin(end: Callable[[], None] = lambda: os._exit(0)) -> queue.SimpleQueue[bytes]:
    """The spec's line, once it comes. When stdin ends, in any state, `end` ends the process at once."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def watch() -> None:
        with os.fdopen(os.dup(0), "rb") as stdin:
            line = stdin.readline()
            if line:
                lines.put(line)
                while stdin.read(1):
                    pass
        end()

    threading.Thread(target=watch, name="stdin", daemon=True).start()
    return lines


def resident_bytes() -> int:
    """The process's resident memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the peak is what there is
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
