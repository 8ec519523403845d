"""One generation for a widget, on whatever thread, that another thread can stop. Free of ipywidgets."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from samovar.errors import Stopped
from samovar.generation import Run
from samovar.progress import describe
from samovar.records import LoadProgress
from samovar.request import Request
from samovar.result import Generation
from samovar.session import Session

FRAME_SECONDS = 0.05
"""The least time between two updates of a screen; nobody reads faster, and each sends all of the text."""


class Answer:
    """The answer to `request`. `run` makes it and returns it; `stop` ends that at any stage."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._session: Session | None = None
        self._stopped = False

    def run(
        self, asking: Session, on_text: Callable[[str], None], on_wait: Callable[[str], None]
    ) -> Generation:
        """Ask the server of `asking`; `on_text` gets each piece, `on_wait` says in words what is waited for.

        Stopped, it returns what had come. Raises SamovarError, with what had come as its `partial`.
        """
        with closing(Session(asking.server)) as session:  # its own: `stop` aborts all that it does
            self._session = session
            run = Run(session, self._request)

            def waits(progress: LoadProgress) -> None:
                on_wait(describe(progress, self._request.model or "the model"))

            try:
                if not self._stopped:
                    for piece in run.pieces(waits):
                        on_text(piece)
            except Stopped:
                return run.result("interrupted")
            return run.result("interrupted" if self._stopped else None)

    def stop(self) -> None:
        """End it; may be called before it has begun, and when it is over."""
        self._stopped = True
        if self._session is not None:
            self._session.abort()


class Frames:
    """Says when it is time to show something again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock()

    def due(self) -> bool:
        """Whether a frame has passed since this was true; what is not shown now will be with the next."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + FRAME_SECONDS
        return True
