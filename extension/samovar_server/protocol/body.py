"""The JSON object in a request's body, read by the letter: what JSON does not have is refused with its place.

Python's reader takes NaN, Infinity and halves of characters (lone surrogates), which would come to grief only
in the model's worker.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from samovar_server.errors import InvalidRequest


def read_object(body: bytes) -> dict[str, Any]:
    """The object that `body` holds; InvalidRequest names the field that is not JSON."""
    try:
        raw = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request body is not valid JSON ({error}). Send a JSON object.") from None
    if not isinstance(raw, dict):
        raise InvalidRequest('The request body must be a JSON object, such as {"model": "demo"}.')
    # Nothing but these spellings leads to what is looked for, and most bodies have none of them.
    if any(spelling in body for spelling in (b"NaN", b"Infinity", b"\\ud", b"\\uD")):
        for place, value in _values(raw):
            _check(place, value)
    return raw


def _values(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All names and values with their places, as "messages.0.content"; without recursion."""
    inside: list[tuple[str, Any]] = [("", raw)]
    while inside:
        place, value = inside.pop()
        yield place, value
        if isinstance(value, dict):
            yield from ((place, name) for name in value)
            inside += [(f"{place}.{name}" if place else name, member) for name, member in value.items()]
        elif isinstance(value, list):
            inside += [(f"{place}.{index}", member) for index, member in enumerate(value)]


def _check(place: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{place}: it must be a finite number.", param=place)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            shown = place.encode(errors="replace").decode() or "request"
            raise InvalidRequest(
                f"{shown}: its text has half a character (a lone surrogate). Send whole characters.",
                param=shown,
            ) from None
