"""Generating from Python: `samovar.generate`, `samovar.chat`, `samovar.stream` and `samovar.load`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Self, Unpack

from samovar.defaults import model_in_use
from samovar.errors import BadOption, Interrupted
from samovar.generation import Run
from samovar.loading import Loading, watched
from samovar.notices import notice_here
from samovar.parameters import LoadParameters, Parameters, with_load_parameters, with_parameters
from samovar.records import LoadedModel
from samovar.request import Message, Request, as_messages, load_options, make_request
from samovar.result import Generation
from samovar.session import current_session
from samovar.together import Grows, Together, Waits


@with_parameters
def generate(prompt: str, *, system: str | None = None, **parameters: Unpack[Parameters]) -> Generation:
    """Generate an answer to `prompt` and return it when it is complete; `system` is the system text."""
    return chat(as_messages(prompt, system), **parameters)


@with_parameters
def chat(messages: Iterable[Message], **parameters: Unpack[Parameters]) -> Generation:
    """Generate the next turn of a conversation: dicts with `role` and `content`, as in OpenAI's API.

    `samovar.chat(**result.request)` asks for an earlier result again.
    """
    request = make_request(messages, parameters)
    together = Together(current_session(), [request])
    waiting = True
    try:
        with closing(notice_here(request.model)) as notice, closing(together.happenings()) as happenings:
            for happening in happenings:
                match happening:
                    case Waits():
                        notice.progress(happening.progress)
                    case Grows() if waiting:
                        waiting = False
                        notice.close()
                    case None if waiting:
                        notice.tick()
    except KeyboardInterrupt:
        raise Interrupted(together.results()[0], "What had come is the error's .partial.") from None
    for error in together.errors():
        raise error
    return with_class(together.results()[0], parameters)


@with_parameters
def stream(
    prompt: str | Iterable[Message], *, system: str | None = None, **parameters: Unpack[Parameters]
) -> Stream:
    """Generate an answer to a prompt or a conversation, and iterate over its text as it comes.

    Leaving the loop, or `close()`, ends the generation; `.result` is what has come.
    """
    return Stream(messages_of(prompt, system), parameters)


class Stream:
    """The text of an answer, piece by piece. Use it in a `for` loop, or with `with` to be sure of its end."""

    def __init__(self, messages: Iterable[Message], parameters: Parameters) -> None:
        request = one_answer(make_request(messages, parameters))
        self._parameters = parameters
        self._run = Run(current_session(), request)
        self._pieces = self._run.pieces()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except KeyboardInterrupt:
            self.close()
            raise Interrupted(self.result, "What had come is .result.") from None

    @property
    def result(self) -> Generation:
        """What has come so far, or all of it."""
        return with_class(self._run.result("interrupted"), self._parameters)

    def close(self) -> None:
        """End the generation, unless it has come to its end."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@with_load_parameters
def load(
    model: str | None = None,
    *,
    ttl: float | None = None,
    pin: bool | None = None,
    **options: Unpack[LoadParameters],
) -> LoadedModel:
    """Bring `model` into memory, with a bar that tells how far it is, and return when it is there.

    `ttl` is for how many seconds it then stays in memory unused, 0 for ever; a pinned model (`pin`) is never
    evicted. `options` are how it is held there. Interrupting it gives the load up. Raises BadOption, NoServer
    and ServerError.
    """
    model = model or model_in_use()
    loading = Loading(current_session(), model, ttl=ttl, pin=pin, options=load_options(options))
    return watched(loading, notice_here(model))


def messages_of(prompt: str | Iterable[Message], system: str | None) -> tuple[Message, ...]:
    """The conversation that a prompt begins, or that is given."""
    if isinstance(prompt, str):
        return as_messages(prompt, system)
    if system is not None:
        raise BadOption("system: it goes with a prompt; in a conversation it is the first message.")
    return tuple(prompt)


def one_answer(request: Request) -> Request:
    """`request`, if it asks for one answer; a stream is the text of one."""
    if request.n not in (None, 1):
        raise BadOption(f"n: a stream is one answer, not {request.n}. Use samovar.generate for several.")
    return request


def with_class(result: Generation, parameters: Parameters) -> Generation:
    """`result`, which knows the pydantic class that its answer was held to."""
    schema = parameters.get("schema")
    return replace(result, schema_class=schema) if isinstance(schema, type) else result
