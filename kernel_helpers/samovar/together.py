"""Generations on threads of their own: one for a cell, several for a comparison, many for a table."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from samovar.background import heard
from samovar.errors import SamovarError, ServerError, Stopped
from samovar.generation import Run
from samovar.records import LoadProgress
from samovar.request import Request
from samovar.result import FinishReason, Generation
from samovar.session import Session


@dataclass(frozen=True, slots=True)
class Waits:
    """Generation number `index` waits for something."""

    index: int
    progress: LoadProgress


@dataclass(frozen=True, slots=True)
class Grows:
    """Answer `choice` of generation number `index` has more text."""

    index: int
    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class Ends:
    """Generation number `index` has ended, by `error` if there is one; `result` is what came."""

    index: int
    result: Generation
    error: SamovarError | None = None


Happening = Waits | Grows | Ends


class Generating:
    """One generation as work for a thread."""

    def __init__(self, index: int, session: Session, request: Request) -> None:
        self.index = index
        self._session = session.twin()
        self._run = Run(self._session, request)

    def run(self, tell: Callable[[Happening], None]) -> None:
        """Generate. Ends by telling Ends, unless it was stopped."""
        try:
            for choice, text in self._run.pieces_of_all(lambda progress: tell(Waits(self.index, progress))):
                tell(Grows(self.index, choice, text))
        except Stopped:
            return
        except SamovarError as error:
            tell(Ends(self.index, self._run.result("error"), error))
        else:
            tell(Ends(self.index, self._run.result()))

    def stop(self) -> None:
        """End it on the server, too."""
        self._session.abort()

    def result(self, finish_reason: FinishReason) -> Generation:
        """What has come so far."""
        return self._run.result(finish_reason)


class Together:
    """Several generations at the same time, heard on one thread."""

    def __init__(self, session: Session, requests: Sequence[Request]) -> None:
        self._session = session
        self._requests = requests
        self._works = self._make(range(len(requests)))
        self._ended: dict[int, Ends] = {}

    def happenings(self) -> Generator[Happening | None]:
        """What happens, as it happens; None after a silence. Closing it ends all that still runs.

        A model for which the others leave no memory is asked again when they are done.
        """
        crowded_out: list[int] = []
        with closing(heard(self._works.values(), concurrency=len(self._works))) as happenings:
            for happening in happenings:
                if isinstance(happening, Ends) and len(self._works) > 1 and _lacked_memory(happening):
                    crowded_out.append(happening.index)
                else:
                    yield self._noted(happening)
        if crowded_out:
            again = self._make(crowded_out)
            self._works |= again
            with closing(heard(again.values())) as happenings:
                for happening in happenings:
                    yield self._noted(happening)

    def results(self) -> list[Generation]:
        """What came of each; of those that have not ended, what had come, as interrupted."""
        return [
            self._ended[index].result if index in self._ended else work.result("interrupted")
            for index, work in sorted(self._works.items())
        ]

    def errors(self) -> list[SamovarError]:
        """What went wrong, in the order of the requests."""
        ends = (self._ended[index] for index in sorted(self._ended))
        return [end.error for end in ends if end.error is not None]

    def _make(self, indices: Iterable[int]) -> dict[int, Generating]:
        return {index: Generating(index, self._session, self._requests[index]) for index in indices}

    def _noted(self, happening: Happening | None) -> Happening | None:
        if isinstance(happening, Ends):
            self._ended[happening.index] = happening
        return happening


def _lacked_memory(end: Ends) -> bool:
    return isinstance(end.error, ServerError) and end.error.code == "insufficient_memory"
