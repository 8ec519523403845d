"""Generating from Python."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel

import samovar
from samovar.errors import BadOption, ConnectionLost, Interrupted, ServerError
from samovar.parameters import LoadParameters, Parameters
from samovar.records import LoadedModel, LoadProgress
from samovar.request import LOAD_PARAMETERS, PARAMETERS
from tests.fakes.fake_server import MODEL, SECONDS, FakeServer, Load, Reply, error_body

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]


class Tea(BaseModel):
    name: str


def test_parameters_are_those_of_a_request() -> None:
    assert set(get_type_hints(Parameters)) == PARAMETERS
    assert set(get_type_hints(LoadParameters)) == LOAD_PARAMETERS
    for load in (samovar.load, samovar.aio.load):
        assert set(inspect.signature(load).parameters) > LOAD_PARAMETERS
    for function in (samovar.generate, samovar.chat, samovar.stream, samovar.aio.generate, samovar.aio.chat):
        assert set(inspect.signature(function).parameters) | {"system"} > PARAMETERS
        assert all(f"{name}" in (function.__doc__ or "") for name in PARAMETERS)


def test_all_that_is_promised_is_there() -> None:
    assert set(samovar.__all__) <= set(dir(samovar))
    for name in samovar.__all__:
        assert getattr(samovar, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = samovar.nothing_such


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"tempreature": 1}, "There is no parameter tempreature. Did you mean temperature?"),
        (
            {"dtype": "flaot16"},
            "dtype: 'flaot16' is none of auto, float32, bfloat16, float16. Did you mean float16?",
        ),
        ({"schema": 3}, "schema: a JSON schema is a dict or a pydantic class, and this is a int."),
    ],
)
def test_wrong_parameters(fake_server: FakeServer, parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(BadOption) as error:
        samovar.generate("Hi", **parameters)
    assert str(error.value) == told
    assert not fake_server.asked


def test_a_conversation(fake_server: FakeServer) -> None:
    assert samovar.chat([*TURNS, {"role": "user", "content": "Tea?"}], stop="\n").text == "Hello world!"
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert [message["content"] for message in body["messages"]] == ["Hi", "Yes?", "Tea?"]
    assert body["stop"] == ["\n"]


def test_a_schema(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(['{"name": "Assam"}']))
    assert samovar.generate("Name a tea", schema=Tea).parsed == Tea(name="Assam")


def test_a_class_closes_the_objects_inside_it_too(fake_server: FakeServer) -> None:
    class Pot(BaseModel):
        teas: list[Tea]

    schema = samovar.generate("Hi", schema=Pot).request["schema"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Tea"]["additionalProperties"] is False
    open_one = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert samovar.generate("Hi", schema=open_one).request["schema"] == open_one  # a dict is taken as it is


def test_a_stream(fake_server: FakeServer) -> None:
    with samovar.stream("Hi", system="Be brief") as stream:
        assert list(stream) == ["Hello", " world", "!"]
    assert (stream.result.text, stream.result.finish_reason) == ("Hello world!", "stop")


def test_leaving_a_stream_ends_it_on_the_server(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(hang_after=1))
    with samovar.stream("Hi") as stream:
        assert next(stream) == "Hello"
    assert fake_server.disconnected.wait(SECONDS)
    assert (stream.result.text, stream.result.finish_reason) == ("Hello", "interrupted")


def test_a_stream_is_one_answer(fake_server: FakeServer) -> None:
    with pytest.raises(BadOption, match="a stream is one answer, not 2"):
        samovar.stream("Hi", n=2)


@pytest.mark.parametrize("call", [samovar.generate, lambda prompt: list(samovar.stream(prompt))])
def test_an_interrupt_keeps_what_came(
    fake_server: FakeServer, interrupt_when_hanging: None, call: Callable[[str], object]
) -> None:
    fake_server.enqueue(Reply(hang_after=2))
    with pytest.raises(Interrupted) as error:
        call("Hi")
    assert fake_server.disconnected.wait(SECONDS)
    assert "Hello world".startswith(error.value.partial.text)


def test_load(fake_server: FakeServer) -> None:
    assert samovar.load("demo", ttl=0, pin=True, dtype="float32").model == MODEL
    assert fake_server.asked_at("/v1/models/load") == [
        {"model": "demo", "ttl": 0, "pin": True, "dtype": "float32", "stream": True}
    ]


@pytest.mark.parametrize("load", [samovar.load, lambda **options: run(samovar.aio.load(**options))])
def test_wrong_options_of_a_load(fake_server: FakeServer, load: Callable[..., object]) -> None:
    with pytest.raises(BadOption, match=r"There is no parameter quantisation\. Did you mean quantization\?"):
        load(quantisation="int8")
    with pytest.raises(BadOption, match=r"dtype: 'flaot16' is none of"):
        load(dtype="flaot16")
    assert not fake_server.asked


def test_a_load_can_be_interrupted(fake_server: FakeServer, interrupt_when_hanging: None) -> None:
    fake_server.enqueue(Load([{"phase": "weights", "fraction": 0.5}], hang=True))
    with pytest.raises(Interrupted):
        samovar.load("demo")
    assert fake_server.disconnected.wait(SECONDS)


def test_the_model_in_use_is_meant_where_none_is_named(fake_server: FakeServer) -> None:
    samovar.use("tea")
    samovar.generate("Hi")
    samovar.generate("Hi", model="demo")
    samovar.load()
    samovar.use(None)
    samovar.generate("Hi")
    assert [body.get("model") for body in fake_server.asked_at("/v1/models/load")] == [
        "tea",
        "demo",
        "tea",
        None,
    ]


def run(work: Awaitable[Any]) -> Any:
    async def go() -> Any:
        async with asyncio.timeout(SECONDS):
            return await work

    return asyncio.run(go())


def test_awaited(fake_server: FakeServer) -> None:
    async def both() -> list[str]:
        results = await asyncio.gather(samovar.aio.generate("Hi"), samovar.aio.chat(TURNS, seed=3))
        return [result.text for result in results]

    assert run(both()) == ["Hello world!"] * 2


def test_awaited_errors_hold_what_came(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(drop_after=2))
    with pytest.raises(ConnectionLost) as error:
        run(samovar.aio.generate("Hi"))
    assert error.value.partial is not None
    assert error.value.partial.text == "Hello world"


def test_awaited_stream(fake_server: FakeServer) -> None:
    async def read() -> list[str]:
        return [text async for text in samovar.aio.stream("Hi")]

    assert run(read()) == ["Hello", " world", "!"]


def test_cancelling_a_task_ends_it_on_the_server(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(hang_after=1))

    async def go() -> None:
        task = asyncio.create_task(samovar.aio.generate("Hi"))
        await asyncio.to_thread(fake_server.hanging.wait, SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(fake_server.disconnected.wait, SECONDS)

    run(go())


def test_awaited_load(fake_server: FakeServer) -> None:
    fake_server.enqueue(Load([{"phase": "weights", "fraction": 0.5}]))
    seen: list[LoadProgress] = []
    loaded: LoadedModel = run(samovar.aio.load("demo", on_progress=seen.append))
    assert (loaded.model, [step.fraction for step in seen]) == (MODEL, [0.5])


def test_an_unknown_model_gets_the_nearest_everywhere(fake_server: FakeServer) -> None:
    fake_server.models = ["demo"]
    missing = Load(error=error_body("model_not_found", "No such model.", "model"))
    fake_server.enqueue(missing, missing, missing)
    for call in (
        lambda: samovar.generate("Hi", model="dmo"),
        lambda: list(samovar.stream("Hi", model="dmo")),
        lambda: samovar.load("dmo"),
    ):
        with pytest.raises(ServerError, match=r"No such model\. Did you mean demo\?"):
            call()


def test_openais_async_client_is_connected(fake_server: FakeServer) -> None:
    async def ask() -> str | None:
        async with samovar.async_client() as client:
            answer = await client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "Hi"}]
            )
        return answer.choices[0].message.content

    assert run(ask()) == "Hello world!"
