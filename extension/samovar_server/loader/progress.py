"""The progress of one load, told to everyone who waits for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from samovar_server.loader.options import LoadPhase, LoadProgress, ProgressCallback

_ORDER: tuple[LoadPhase, ...] = get_args(LoadPhase)


class ProgressFeed:
    """Passes steps on so that nothing ever falls: not the phase, the fraction or the bytes.

    The `listeners` hear of every step; more can join for a while.
    """

    def __init__(self, log: logging.Logger, *listeners: ProgressCallback) -> None:
        self._log = log
        self._last = LoadProgress(_ORDER[0], 0.0)
        self._listeners: list[ProgressCallback] = [*listeners]

    def report(self, step: LoadProgress) -> None:
        """Take a step of the load; what it says less than the last one is replaced by the last one's."""
        last = self._last
        self._last = LoadProgress(
            phase=max(last.phase, step.phase, key=_ORDER.index),
            fraction=max(last.fraction, step.fraction),
            bytes_done=max(last.bytes_done, step.bytes_done),
            bytes_total=max(last.bytes_total, step.bytes_total),
        )
        if self._last != last:
            for listener in tuple(self._listeners):
                self._tell(listener)

    @contextmanager
    def listening(self, listener: ProgressCallback | None) -> Iterator[None]:
        """Tell `listener` how far the load is now, and every step until the block ends."""
        if listener is None:
            yield
            return
        self._listeners.append(listener)
        try:
            self._tell(listener)
            yield
        finally:
            self._listeners.remove(listener)

    def _tell(self, listener: ProgressCallback) -> None:
        try:
            listener(self._last)
        except Exception:  # noqa: BLE001 - one listener's trouble must not end a load that others wait for
            self._log.exception("a listener to the progress of a load failed")
