"""What a saved notebook shows where a widget was: its last state as plain HTML, beside the widget.

A front end that cannot bring the widget to life (a notebook opened anew, on a web page, in a review) shows
this picture. Where the widget lives, the picture's own style hides it. It is an output of its own, since
changing the widget's output would draw the widget anew, and its user would lose the focus.
"""

from __future__ import annotations

import uuid

from samovar.widgets.html import STYLE


class Picture:
    """A display of its own, changed only when what it shows has; `marker` is a class for the widget."""

    def __init__(self) -> None:
        name = uuid.uuid4().hex[:12]
        self.marker = f"samovar-live-{name}"
        self._id = f"samovar-picture-{name}"
        self._shown: str | None = None

    def show(self, html: str, text: str) -> None:
        """Display it; once more where the widget is displayed once more."""
        from IPython.display import display

        display(self._bundle(html, text), raw=True, display_id=self._id)
        self._shown = html

    def update(self, html: str, text: str) -> None:
        """Change it wherever it is displayed."""
        from IPython.display import update_display

        if self._shown is not None and html != self._shown:
            update_display(self._bundle(html, text), raw=True, display_id=self._id)
            self._shown = html

    def _bundle(self, html: str, text: str) -> dict[str, str]:
        # Where it does not live, Jupyter's own "model not found" above the picture helps nobody.
        hide = (
            f"<style>body:has(.{self.marker}) .{self._id} {{ display: none; }}\n"
            f".jp-OutputArea-child:not(:has(.{self.marker})):has(+ .jp-OutputArea-child .{self._id}) "
            "{ display: none; }</style>"
        )
        return {
            "text/html": f'{STYLE}{hide}<div class="samovar-picture {self._id}">{html}</div>',
            "text/plain": text,
        }
