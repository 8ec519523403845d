"""What can go wrong between a notebook and its server, told in one line that says what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samovar.result import Generation


class SamovarError(Exception):
    """Base of all errors of this package.

    `partial` is what a generation had produced when it broke off; None where nothing was generated.
    """

    partial: Generation | None = None

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: what users can mend is told without a traceback.
        return [f"{type(self).__name__}: {self}"]


class NoServer(SamovarError):
    """No samovar server was found, or it does not answer."""


class ConnectionLost(SamovarError):
    """The server went away in the middle of an answer."""


class Interrupted(KeyboardInterrupt):
    """You interrupted it. `partial` is what had come: of one generation, of several, or of a table's rows.

    A KeyboardInterrupt, so that "Run All" stops at this cell, but told in one line.
    """

    def __init__(self, partial: Any = None, then: str = "") -> None:
        """`then` is a sentence on where what had come is."""
        super().__init__(f"Interrupted. {then}".rstrip())
        self.partial = partial

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Stopped(SamovarError):
    """It was ended from another thread, as the button of a widget does."""

    def __init__(self) -> None:
        super().__init__("Stopped.")


class ServerError(SamovarError):
    """The server refused or failed the request.

    `status` is the HTTP status; None for an error that came after the answer had begun. `code` and
    `param` are those of OpenAI's error shape: what went wrong, and the request field at fault.
    """

    def __init__(
        self, message: str, *, status: int | None, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def with_hint(self, hint: str) -> ServerError:
        """The same error, saying more."""
        return ServerError(f"{self}{hint}", status=self.status, code=self.code, param=self.param)


class BadOption(SamovarError):
    """An option of a magic or of the command line is unknown, or its value is."""


class BadPrompt(SamovarError):
    """The prompt is empty, or an {expression} in it cannot be evaluated."""


class BadAnswer(SamovarError):
    """The answer is not of the form that was to be read from it."""
