"""Tab completion behind `%%generate` and `%samovar`: options, their values, models."""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.interactiveshell import InteractiveShell

from samovar.errors import SamovarError
from samovar.generation_options import option_values
from samovar.magics.commands import COMMANDS
from samovar.magics.generate_line import is_schema, make_parser

WAIT_SECONDS = 1.0
"""For so long a press of Tab may wait for the server."""

FRESH_SECONDS = 10.0

Values = Mapping[str, Callable[[], Iterable[str]]]
"""What can follow an option, for those whose values are known."""


class ModelNames:
    """The names of the models, asked for now and then, and never waited for long."""

    def __init__(self, ask: Callable[[], Sequence[str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._names: Sequence[str] = ()
        self._asked_at: float | None = None

    def __call__(self) -> Sequence[str]:
        """The names, as of a few seconds ago; those of before while the server does not answer."""
        now = self._clock()
        if self._asked_at is None or now - self._asked_at >= FRESH_SECONDS:
            self._asked_at = now
            asking = threading.Thread(target=self._refresh, name="samovar-names", daemon=True)
            asking.start()
            asking.join(WAIT_SECONDS)
        return self._names

    def _refresh(self) -> None:
        try:
            self._names = self._ask()
        except SamovarError:
            self._asked_at = None  # a press of Tab is no place for an error; the next one asks again


def model_names() -> Sequence[str]:
    """What the server calls its models."""
    from samovar.session import current_session

    return [model.id for model in current_session().models()]


@dataclass(frozen=True)
class Line:
    """The words of a line up to the cursor: `before` are whole, `word` is being typed."""

    before: Sequence[str]
    word: str

    @classmethod
    def up_to(cls, text: str) -> Line:
        """The line that begins with `text`."""
        *before, word = re.split(r"\s+", text.lstrip()) if text.strip() else [""]
        return cls(before, word)


def completions(line: Line, values: Values, models: Callable[[], Iterable[str]]) -> list[str]:
    """What `line.word` can become, where `line` is that of one of the magics."""
    magic, *before = line.before or [""]
    if magic in {"%%generate", "%generate"}:
        return _options(make_parser(), before, line.word, values)
    if magic != "%samovar":
        return []
    if not before:
        return _starting(line.word, COMMANDS)
    command = COMMANDS.get(before[0])
    if command is None:
        return []
    parser, after = command.parser(), before[1:]
    found = _options(parser, after, line.word, values)
    if command.takes_model and not line.word.startswith("-") and not _expects_value(after, parser):
        return [*_starting(line.word, models()), *found]
    return found


def _options(parser: argparse.ArgumentParser, before: Sequence[str], word: str, values: Values) -> list[str]:
    option, equals, beginning = word.partition("=")
    if equals:
        return [f"{option}={value}" for value in _starting(beginning, _values_of(option, values))]
    if before and _expects_value(before, parser):
        return _starting(word, _values_of(before[-1], values))
    again = {"--model", "-m", "--stop", "--logit-bias"}
    names = [name for name in parser._option_string_actions if name.startswith("--") or name == word]
    return [name for name in _starting(word, names) if name in again or name not in before]


def _expects_value(before: Sequence[str], parser: argparse.ArgumentParser) -> bool:
    action = parser._option_string_actions.get(before[-1]) if before else None
    return action is not None and action.nargs != 0


def _values_of(option: str, values: Values) -> Iterable[str]:
    return values[option]() if option in values else option_values(option)


def _starting(word: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(word)]


class MagicCompleter:
    """What IPython asks at every press of Tab."""

    def __init__(
        self,
        shell: InteractiveShell,
        conversations: Callable[[], Iterable[str]],
        models: Callable[[], Iterable[str]],
    ) -> None:
        self._shell = shell
        self._models = models
        self._values: Values = {
            "--model": models,
            "-m": models,
            "--json": self._schemas,
            "--chat": conversations,
            "--out": lambda: (),
        }

    def _schemas(self) -> list[str]:
        variables = self._shell.user_ns.items()
        return [name for name, value in variables if is_schema(value) and not name.startswith("_")]

    @context_matcher(identifier="samovar")  # type: ignore[untyped-decorator]  # IPython does not say
    def match(self, context: CompletionContext) -> SimpleMatcherResult:
        """What the word at the cursor can become; in the first line of a cell only."""
        if context.cursor_line != 0:
            return {"completions": []}
        line = Line.up_to(context.line_with_cursor[: context.cursor_position])
        found = completions(line, self._values, self._models)
        # IPython takes only the end of the word to be replaced, where it has a `=` or a `:` in it.
        typed = len(line.word) - len(context.token) if line.word.endswith(context.token) else 0
        return {
            "completions": [SimpleCompletion(text=name[typed:], type="magic") for name in found],
            "suppress": bool(found),
        }

    def install(self) -> None:
        """From now on it is asked, and none that was installed before."""
        remove_completers(self._shell)
        self._shell.Completer.custom_matchers.append(self.match)


def remove_completers(shell: InteractiveShell) -> None:
    """None is asked any more."""
    matchers = shell.Completer.custom_matchers
    owners = [getattr(matcher, "__self__", None) for matcher in matchers]
    matchers[:] = [
        matcher
        for matcher, owner in zip(matchers, owners, strict=True)
        if not isinstance(owner, MagicCompleter)
    ]
