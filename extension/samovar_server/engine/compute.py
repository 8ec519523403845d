"""The one thread of a worker that computes.

OpenMP keeps a team of threads for every thread that ever started parallel work, and once there are more of
them than cores they go to sleep between two pieces of work instead of waiting for the next. A step has
hundreds of pieces. Loading on the main thread and stepping on another made a decode step on 2 cores 1.7
times as long (61 against 35 ms, SmolLM2-135M in float32): so all of it happens here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class ComputeThread:
    """Carries out calls one after the other, on a daemon thread that starts with the first."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def call(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """`function(*arguments)` on this thread, after what was asked before; its result or exception."""
        future: Future[T] = Future()

        def carry_out() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - whoever waits for the result gets it
                future.set_exception(error)

        self._calls.put(carry_out)
        if self._thread.ident is None:
            self._thread.start()
        return future

    def _run(self) -> None:
        while True:
            self._calls.get()()
