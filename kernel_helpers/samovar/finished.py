"""Answers that are there already, by a hash of what was asked: so that a map can go on where it was."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from samovar.errors import BadOption
from samovar.request import Request

BEGINNING = b'{"key": "'
"""Of every line in a file."""

_kept: dict[str, str] = {}
"""The answers of maps of this kernel that have not come to their end."""


def keys_of(requests: Sequence[Request]) -> list[str]:
    """What each is kept under: a hash of all that is asked. Equal requests are told apart by their order."""
    seen: Counter[str] = Counter()
    keys = []
    for request in requests:
        asked = json.dumps(request.parameters(), sort_keys=True, default=str)
        seen[asked] += 1
        keys.append(hashlib.sha256(f"{seen[asked]} {asked}".encode()).hexdigest())
    return keys


class Finished:
    """Answers by key: those that this kernel keeps, and those in `file`, where one is named."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._texts = dict(_kept)
        if file is not None and file.exists():
            self._texts |= _read(file)

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def get(self, key: str) -> str | None:
        """The answer; None when there is none yet."""
        return self._texts.get(key)

    def add(self, key: str, text: str) -> None:
        """Keep an answer, at once also in the file. Threads may share this."""
        with self._lock:
            if self._file is not None:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n")
            self._texts[key] = _kept[key] = text

    def forget(self, keys: Iterable[str]) -> None:
        """This kernel need not keep these any more; what is in the file stays there."""
        for key in keys:
            _kept.pop(key, None)


def _read(file: Path) -> dict[str, str]:
    """The answers in `file`; half a line at its end, where a kernel was killed, is cut off."""
    *lines, torn = file.read_bytes().split(b"\n")
    texts = {}
    for number, line in enumerate(lines, 1):
        try:
            told = json.loads(line)
            texts[told["key"]] = told["text"]
        except (ValueError, KeyError, TypeError):
            raise BadOption(
                f"store: line {number} of {file} was not written by samovar.map. Name another file, or take "
                "that line out."
            ) from None
    if not BEGINNING.startswith(torn[: len(BEGINNING)]):
        raise BadOption(f"store: {file} was not written by samovar.map. Name another file.")
    if torn:
        with file.open("r+b") as end:
            end.truncate(file.stat().st_size - len(torn))
    return texts
