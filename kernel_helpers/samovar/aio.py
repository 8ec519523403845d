"""The same for `await`: `samovar.aio.generate`, `chat`, `stream` and `load`.

Each runs on a thread of its own and hands on what comes to the event loop. Cancelling the task ends it on the
server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import TypeVar, Unpack

from samovar.api import messages_of, one_answer, with_class
from samovar.background import Work
from samovar.defaults import model_in_use
from samovar.loading import Loading
from samovar.parameters import LoadParameters, Parameters, with_load_parameters, with_parameters
from samovar.records import LoadedModel, LoadProgress
from samovar.request import Message, as_messages, load_options, make_request
from samovar.result import Generation
from samovar.session import current_session
from samovar.together import Ends, Generating, Grows

Told = TypeVar("Told")


@with_parameters
async def generate(prompt: str, *, system: str | None = None, **parameters: Unpack[Parameters]) -> Generation:
    """Generate an answer to `prompt` and return it when it is complete; `system` is the system text."""
    return await chat(as_messages(prompt, system), **parameters)


@with_parameters
async def chat(messages: Iterable[Message], **parameters: Unpack[Parameters]) -> Generation:
    """Generate the next turn of a conversation: dicts with `role` and `content`, as in OpenAI's API."""
    generating = Generating(0, current_session(), make_request(messages, parameters))
    async with aclosing(heard(generating)) as told:
        async for happening in told:
            if isinstance(happening, Ends):
                return with_class(_result(happening), parameters)
    raise AssertionError("a generation ends by telling so")


@with_parameters
async def stream(
    prompt: str | Iterable[Message], *, system: str | None = None, **parameters: Unpack[Parameters]
) -> AsyncGenerator[str]:
    """Generate an answer to a prompt or a conversation, and iterate over its text: `async for`."""
    request = one_answer(make_request(messages_of(prompt, system), parameters))
    async with aclosing(heard(Generating(0, current_session(), request))) as told:
        async for happening in told:
            match happening:
                case Grows():
                    yield happening.text
                case Ends():
                    _result(happening)


@with_load_parameters
async def load(
    model: str | None = None,
    *,
    ttl: float | None = None,
    pin: bool | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    **options: Unpack[LoadParameters],
) -> LoadedModel:
    """Bring `model` into memory and return when it is there; `on_progress` is told how far it is."""
    how = load_options(options)
    loading = Loading(current_session(), model or model_in_use(), ttl=ttl, pin=pin, options=how)
    async with aclosing(heard(loading)) as told:
        async for item in told:
            if isinstance(item, LoadedModel):
                return item
            if on_progress is not None:
                on_progress(item)
    raise AssertionError("a load ends by telling so")


async def heard(work: Work[Told]) -> AsyncGenerator[Told]:
    """Do `work` on a thread and yield what it tells; what it raises is raised here. Closing this ends it."""
    loop = asyncio.get_running_loop()
    said: asyncio.Queue[tuple[Told] | BaseException | None] = asyncio.Queue()

    def put(item: tuple[Told] | BaseException | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(said.put_nowait, item)

    def run() -> None:
        try:
            work.run(lambda told: put((told,)))
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            put(error)
        else:
            put(None)

    threading.Thread(target=run, name="samovar-work", daemon=True).start()
    try:
        while (item := await said.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        work.stop()


def _result(end: Ends) -> Generation:
    if end.error is not None:
        raise end.error
    return end.result
