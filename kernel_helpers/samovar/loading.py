"""A load on a thread of its own, so that it can be watched and interrupted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from samovar.background import heard
from samovar.display import Notice
from samovar.errors import Interrupted, Stopped
from samovar.records import LoadedModel, LoadOptions, LoadProgress
from samovar.session import Session


class Loading:
    """The load of one model as work for a thread; it tells its progress, and at last the loaded model."""

    def __init__(
        self,
        session: Session,
        model: str | None,
        *,
        ttl: float | None = None,
        pin: bool | None = None,
        options: LoadOptions | None = None,
    ) -> None:
        self._session = session.twin()
        self._model = model
        self._ttl = ttl
        self._pin = pin
        self._options = options

    def run(self, tell: Callable[[LoadProgress | LoadedModel], None]) -> None:
        """Load."""
        try:
            tell(
                self._session.load(
                    self._model, ttl=self._ttl, pin=self._pin, options=self._options, on_progress=tell
                )
            )
        except Stopped:
            return

    def stop(self) -> None:
        """Give it up."""
        self._session.abort()


def watched(loading: Loading, notice: Notice) -> LoadedModel:
    """Load, with `notice` saying how far it is; Interrupted when the user interrupts it."""
    loaded: LoadedModel | None = None
    try:
        with closing(notice), closing(heard([loading])) as told:
            for item in told:
                match item:
                    case LoadProgress():
                        notice.progress(item)
                    case LoadedModel():
                        loaded = item
                    case None:
                        notice.tick()
    except KeyboardInterrupt:
        raise Interrupted from None
    assert loaded is not None
    return loaded
