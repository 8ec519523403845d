"""`samovar.map`: the same question about every row of a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from samovar.background import heard
from samovar.dataframes import dataframe, is_dataframe
from samovar.display import Line
from samovar.errors import BadAnswer, BadOption, ConnectionLost, Interrupted, NoServer
from samovar.finished import Finished, keys_of
from samovar.interpolate import interpolate
from samovar.loading import Loading, watched
from samovar.notices import line_here, notice_here
from samovar.parameters import Parameters, with_parameters
from samovar.progress import bar, duration, time_left
from samovar.request import Request, as_messages, as_schema, make_request
from samovar.result import parse_json
from samovar.session import Session, current_session
from samovar.together import Ends, Generating, Happening

if TYPE_CHECKING:
    import pandas as pd

ITEM = "item"
"""What a row is called in the template where it is no mapping."""


@with_parameters
def map_rows(
    rows: pd.DataFrame | Sequence[Any],
    template: str,
    *,
    system: str | None = None,
    concurrency: int = 8,
    store: str | Path | None = None,
    **parameters: Unpack[Parameters],
) -> Any:
    """Ask about every row of a DataFrame, or every item of a list, and return the rows with the answers.

    `{column}` in `template` and `system` is the row's value, as in an f-string; `{item}` is an item that is
    no dict. The columns `answer` and `error` (None, or why there is no answer) are added, and with the schema
    of an object one for each of its properties. What comes back has the order and the kind of `rows`: a
    DataFrame with the same index, or a list of dicts.

    `concurrency` rows are asked at a time. After an interrupt, or where rows have failed, the same call again
    asks only for what is missing; `store`, a file, keeps what is finished for another kernel, too.
    """
    if concurrency < 1:
        raise BadOption(f"concurrency: {concurrency} rows at a time would never end; 1 is the least.")
    table = make_table(rows, template, system, parameters)
    finished = Finished(None if store is None else Path(store))
    asking = _Asking(current_session(), table, finished, concurrency)
    try:
        asking.run()
    except KeyboardInterrupt:
        done = sum(key in finished for key in table.keys)
        told = f"{done} of {len(table.keys)} rows are finished; the same call again goes on from there."
        raise Interrupted(asking.result(), told) from None
    if not asking.errors:
        finished.forget(table.keys)
    return asking.result()


@dataclass(frozen=True)
class Table:
    """The rows, what is asked about each, and what becomes of the answers.

    `properties` are the columns that an answer's JSON fills; `finish` makes the rows what the caller gave.
    """

    rows: Sequence[Mapping[str, Any]]
    requests: Sequence[Request]
    keys: Sequence[str]
    properties: Sequence[str]
    finish: Callable[[list[dict[str, Any]]], Any]


def make_table(
    rows: pd.DataFrame | Sequence[Any], template: str, system: str | None, parameters: Parameters
) -> Table:
    """Fill the template in for every row; BadOption and BadPrompt say what is wrong with it."""
    if isinstance(rows, str | Mapping):
        raise BadOption(f"rows: a DataFrame or a list is needed, and this is a {type(rows).__name__}.")
    is_frame = is_dataframe(rows)
    records = rows.to_dict("records") if is_frame else rows  # type: ignore[union-attr]
    named = [dict(row) if isinstance(row, Mapping) else {ITEM: row} for row in records]
    if parameters.get("n") not in (None, 1):
        raise BadOption("n: each row is asked once; repeat the rows to ask more often.")
    schema = parameters.get("schema")
    described: Mapping[str, Any] = {} if schema is None else as_schema(schema)
    wishes = {**parameters, "schema": None if schema is None else described}
    properties = list(described.get("properties", ()))
    taken = {*properties, "answer", "error"} & {name for row in named for name in row}
    if taken:
        raise BadOption(f"rows: there is a column {min(taken)} already, and the answers need it. Rename it.")
    requests = [make_request(_messages(template, system, row), wishes) for row in named]
    index = rows.index if is_frame else None
    return Table(
        named,
        requests,
        keys_of(requests),
        properties,
        (lambda done: dataframe(done, index)) if is_frame else list,
    )


def _messages(template: str, system: str | None, row: Mapping[str, Any]) -> Any:
    prompt = interpolate(template, row, what="the template")
    return as_messages(prompt, None if system is None else interpolate(system, row, what="system"))


class _Row:
    """The question about one row as work for a thread; `kept` gets its end first, and may change it."""

    def __init__(self, generating: Generating, kept: Callable[[Ends], Ends]) -> None:
        self._generating = generating
        self._kept = kept
        self.stop = generating.stop

    def run(self, tell: Callable[[Happening], None]) -> None:
        """Ask."""
        self._generating.run(lambda told: tell(self._kept(told) if isinstance(told, Ends) else told))


class _Asking:
    """One call: what has been asked, and what went wrong."""

    def __init__(self, session: Session, table: Table, finished: Finished, concurrency: int) -> None:
        self._session = session
        self._table = table
        self._finished = finished
        self._concurrency = concurrency
        self._missing = [index for index, key in enumerate(table.keys) if key not in finished]
        self._began = time.monotonic()
        self._asked = 0
        self.errors: dict[int, str] = {}

    def run(self) -> None:
        """Ask about every row that is not finished. NoServer and ConnectionLost end it: so would they all."""
        if not self._missing:
            return
        first = self._table.requests[self._missing[0]]
        loading = Loading(self._session, first.model, ttl=first.ttl, options=first.load)
        watched(loading, notice_here(first.model))  # what is wrong with the model is no error of each row
        works = (
            _Row(Generating(index, self._session, self._table.requests[index]), self._kept)
            for index in self._missing
        )
        at_once = min(self._concurrency, len(self._missing))
        with closing(line_here()) as line, closing(heard(works, concurrency=at_once)) as happenings:
            self._show(line)
            for happening in happenings:
                if isinstance(happening, Ends):
                    self._take(happening)
                if happening is None or isinstance(happening, Ends):
                    self._show(line)

    def result(self) -> Any:
        """The rows with the answers so far."""
        return self._table.finish([self._row(index) for index in range(len(self._table.rows))])

    def _take(self, end: Ends) -> None:
        self._asked += 1
        if isinstance(end.error, NoServer | ConnectionLost):
            raise end.error
        if end.error is not None:
            self.errors[end.index] = str(end.error)

    def _kept(self, end: Ends) -> Ends:
        """Keep an answer. On the thread that made it: an interrupt of the main one can then lose none."""
        if end.error is not None:
            return end
        if self._table.properties:
            try:
                parse_json(end.result.text, end.result.finish_reason)
            except BadAnswer as error:
                return replace(end, error=error)
        self._finished.add(self._table.keys[end.index], end.result.text)
        return end

    def _row(self, index: int) -> dict[str, Any]:
        key = self._table.keys[index]
        text = self._finished.get(key)
        told = parse_json(text) if text is not None and self._table.properties else {}
        columns = {name: told.get(name) for name in self._table.properties}
        error = self.errors.get(index, None if text is not None else "not asked yet")
        return {**self._table.rows[index], "answer": text, **columns, "error": error}

    def _show(self, line: Line) -> None:
        total, done = len(self._table.rows), len(self._table.rows) - len(self._missing) + self._asked
        parts = [bar(done / total), f"{done} of {total} rows"]
        if self.errors:
            parts.append(f"{len(self.errors)} failed")
        elapsed = time.monotonic() - self._began
        left = time_left(self._asked / len(self._missing), elapsed)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        line.show("  ".join(parts), phase="rows", fraction=done / total)
