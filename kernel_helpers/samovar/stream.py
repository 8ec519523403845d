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
    """The data of one event."""

    text: str


def parse_events(chunks: Iterable[bytes]) -> Iterator[Comment | Data]:
    """The events and comments in `chunks`, each as soon as it is complete.

    Only what the specification calls the end of a line ends one: JSON may hold other line separators.
    An event that the end of the stream cuts off is dropped, as the specification says.
    """
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield Data("\n".join(data))
            data = []
        elif line.startswith(":"):
            yield Comment(line[1:].strip())
        else:
            name, _, value = line.partition(":")
            if name == "data":
                data.append(value.removeprefix(" "))


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    pending = b""
    for chunk in chunks:
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8")
