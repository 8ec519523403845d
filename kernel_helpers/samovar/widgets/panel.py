"""What every widget is: parts below a title, work off the kernel's threads, and a picture that stays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import ipywidgets

from samovar.errors import SamovarError
from samovar.records import OPEN, Event
from samovar.session import Session, current_session
from samovar.widgets import html
from samovar.widgets.cells import replace_in_cell
from samovar.widgets.comms import hear_in_subshells
from samovar.widgets.live import Listener, Pulse
from samovar.widgets.parts import all_parts
from samovar.widgets.picture import Picture


class Panel(ipywidgets.VBox):
    """A widget of samovar. Its threads start when it is displayed and end with `close`.

    Clicks and events come on several threads, cells run on another. So state and parts are touched under
    `guard` only, requests to the server are made outside of it, by `work`, and `refresh` alone writes to
    the parts, and only to those that the front end does not write to. Running the cell anew closes what
    it displayed before.
    """

    title = ""
    listens = False
    """Whether it follows the server's events; they come to `heard`."""

    _listener: Listener | None = None
    _pulse: Pulse | None = None
    _closed = False

    def __init__(
        self, parts: Sequence[ipywidgets.Widget], connect: Callable[[], Session] = current_session
    ) -> None:
        self.guard = threading.RLock()
        self._connect = connect
        self._picture = Picture()
        self._trouble = ""
        self._message = ipywidgets.HTML()
        heading = ipywidgets.HTML(html.STYLE + html.title(self.title))
        super().__init__([heading, *parts, self._message])
        hear_in_subshells(all_parts(self))
        self.add_class("samovar")
        self.add_class(self._picture.marker)

    def refresh(self) -> None:
        """Write the state to the parts; called under `guard`."""
        raise NotImplementedError

    def picture(self) -> str:
        """The state as HTML that needs nothing else; called under `guard`."""
        raise NotImplementedError

    def heard(self, session: Session, event: Event) -> None:
        """Take in an event, on the listener's thread. Only widgets that listen have something to do."""

    def beat(self) -> None:
        """What is to be done every second, on a thread of its own, before parts and picture are renewed."""

    def start(self) -> None:
        """Start its threads, once; displaying it does that."""
        with self.guard:
            if self._pulse is not None or self._closed:
                return
            self._pulse = Pulse(self._renew)
            if self.listens:
                self._listener = Listener(self._connect, self._on_event, self._on_trouble)

    def close(self) -> None:
        """End its threads and take it off the screen; its picture stays."""
        if self._pulse is not None and not self._closed:
            self._renew_picture()
        self._closed = True
        for thread in (self._listener, self._pulse):
            if thread is not None:
                thread.close()
        for part in all_parts(self):
            part.close()
        super().close()

    def join(self, timeout: float) -> bool:
        """After `close`, wait until its threads have ended; False when they have not."""
        return all(thread.join(timeout) for thread in (self._listener, self._pulse) if thread is not None)

    def work(self, task: Callable[[Session], object]) -> threading.Thread:
        """Do `task`, which speaks with the server, on a thread of its own; its errors are shown."""
        self.say("")
        thread = threading.Thread(target=self._do, args=(task,), name="samovar-widget", daemon=True)
        thread.start()
        return thread

    def say(self, trouble: str) -> None:
        """Show an error, or none; picture and screen readers tell it as well."""
        with self.guard:
            self._trouble = trouble
            self._message.value = html.error(trouble)

    def update(self) -> None:
        """Show the state."""
        with self.guard:
            if not self._closed:
                self.refresh()

    def _do(self, task: Callable[[Session], object]) -> None:
        try:
            task(self._connect())
        except SamovarError as error:
            self.say(str(error))
        self.update()

    def _on_event(self, session: Session, event: Event) -> None:
        if event.kind == OPEN:
            self.say("")
        self.heard(session, event)
        self.update()

    def _on_trouble(self, error: SamovarError) -> None:
        self.say(f"{error} Trying again.")

    def _renew(self) -> None:
        try:
            self.beat()
        except SamovarError as error:
            self.say(str(error))
        self.update()
        self._renew_picture()

    def _renew_picture(self) -> None:
        self._picture.update(self._picture_html(), repr(self))

    def _picture_html(self) -> str:
        with self.guard:
            return html.title(self.title) + self.picture() + html.error(self._trouble)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        replace_in_cell(self)
        self.update()
        display(super()._repr_mimebundle_(), raw=True)
        self._picture.show(self._picture_html(), repr(self))
        self.start()

    def __repr__(self) -> str:
        return f"samovar.widgets.{type(self).__name__}()"
