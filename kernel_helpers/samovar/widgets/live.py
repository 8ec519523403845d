"""The threads behind a widget: one hears the server's events, one beats every second. Free of ipywidgets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from samovar.errors import SamovarError, Stopped
from samovar.records import Event
from samovar.session import Session

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0)
"""Pauses between attempts to reach a server that has gone; the last one is then repeated."""

OnEvent = Callable[[Session, Event], None]
OnTrouble = Callable[[SamovarError], None]


class Listener:
    """Hears the events of the server that `connect` finds, through restarts of it, until `close`.

    `on_event` gets each with a session to ask by; the first of every connection is of kind "open".
    `on_trouble` is told why a connection ended; a new one is tried after a pause. Both run on the
    listener's thread.
    """

    def __init__(self, connect: Callable[[], Session], on_event: OnEvent, on_trouble: OnTrouble) -> None:
        self._connect = connect
        self._on_event = on_event
        self._on_trouble = on_trouble
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="samovar-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop. The thread ends at once unless it is in a callback, whose end is not waited for."""
        self._stop.set()
        with self._lock:
            if self._session is not None:
                self._session.abort()

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; False when it has not within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except Stopped:
                return
            except SamovarError as error:
                self._on_trouble(error)
            pause = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
            self._failures += 1
            self._stop.wait(pause)

    def _listen(self) -> None:
        asking = self._connect()
        with closing(Session(asking.server)) as session:  # its own: `close` aborts all that it does
            with self._lock:
                self._session = session
            if self._stop.is_set():  # told so before there was a session to abort
                return
            for event in session.events():
                self._failures = 0
                self._on_event(asking, event)
                if self._stop.is_set():
                    return


class Pulse:
    """Calls `beat` every `seconds` on a thread of its own, until `close`."""

    def __init__(self, beat: Callable[[], None], seconds: float = 1.0) -> None:
        self._beat = beat
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="samovar-pulse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; a beat that is under way is not waited for."""
        self._stop.set()

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; False when it has not within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._beat()
