"""A conversation that can be asked again and edited. The state of the chat panel; free of ipywidgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from samovar.request import Message, Request, make_request
from samovar.result import Generation


@dataclass(frozen=True, slots=True)
class Parameters:
    """How answers are generated; None leaves a choice to the server."""

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def request(self, messages: Sequence[Message]) -> Request:
        """A request for the next turn after `messages`."""
        return make_request(messages, asdict(self))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said. `note` is what is known of an answer: speed, how it ended."""

    role: Literal["user", "assistant"]
    text: str
    note: str = ""


class Dialogue:
    """Questions and answers in turn, and the answer that comes just now. Not thread-safe."""

    def __init__(self) -> None:
        self.system = ""
        self.turns: list[Turn] = []
        self.editing: int | None = None
        """The question that the next one replaces, with all that came after it."""
        self._coming: str | None = None
        self._waiting = ""

    @property
    def busy(self) -> bool:
        """Whether an answer is on its way."""
        return self._coming is not None

    @property
    def can_regenerate(self) -> bool:
        """Whether there is a question to ask again."""
        return not self.busy and bool(self.turns)

    def ask(self, text: str) -> None:
        """Add a question, in place of the one that is edited; an answer is on its way from now on."""
        if self.editing is not None:
            del self.turns[self.editing :]
            self.editing = None
        self.turns.append(Turn("user", text))
        self._begin()

    def ask_again(self) -> None:
        """Drop the last answer; another is on its way from now on."""
        if self.turns[-1].role == "assistant":
            self.turns.pop()
        self.editing = None
        self._begin()

    def edit(self, index: int) -> str:
        """Let the next question replace that at `index`; its text."""
        self.editing = index
        return self.turns[index].text

    def clear(self) -> None:
        """Forget all turns; the system text stays."""
        self.turns.clear()
        self.editing = None

    def messages(self) -> list[Message]:
        """What the model is given."""
        system = [{"role": "system", "content": self.system}] if self.system.strip() else []
        return system + [{"role": turn.role, "content": turn.text} for turn in self.turns]

    def wait(self, words: str) -> None:
        """Note what the answer is waiting for."""
        self._waiting = words

    def add(self, piece: str) -> None:
        """Add to the answer that is on its way."""
        self._coming = (self._coming or "") + piece

    def finish(self, result: Generation | None) -> None:
        """The answer is over; None or an empty one leaves the question without one."""
        self._coming = None
        if result is not None and result.text:
            self.turns.append(Turn("assistant", result.text, result.summary()))

    def shown(self) -> list[Turn]:
        """All turns, with the answer that is on its way as the last."""
        if self._coming is None:
            return list(self.turns)
        return [*self.turns, Turn("assistant", self._coming, "" if self._coming else self._waiting)]

    def _begin(self) -> None:
        self._coming, self._waiting = "", "waiting"
