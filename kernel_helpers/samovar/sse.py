"""Server-sent events, as bytes come in (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comment:
    """A line that clients may ignore; samovar says there how far a load is."""

    text: str


@dataclass(frozen=True, slots=True)
class Data:
    """One event: its data, and its name and id where the server gives them."""

    text: str
    event: str = "message"
    id: str = ""


def parse_events(chunks: Iterable[bytes]) -> Iterator[Comment | Data]:
    """The events and comments in `chunks`, each as soon as it is complete.

    Only what the specification calls the end of a line ends one: JSON may hold other line separators.
    An event that the end of the stream cuts off is dropped, as the specification says.
    """
    data: list[str] = []
    event, last_id = "", ""
    for line in _lines(chunks):
        if not line:
            if data:
                yield Data("\n".join(data), event or "message", last_id)
            data, event = [], ""
        elif line.startswith(":"):
            yield Comment(line[1:].strip())
        else:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "event":
                event = value
            elif name == "id":
                last_id = value  # it holds for the events after this one, too


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    pending = b""
    for chunk in chunks:
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8")
