from contextlib import closing
from itertools import count

import pytest

import samovar
from samovar.errors import ConnectionLost, ServerError
from samovar.generation import Run
from samovar.records import LoadProgress
from samovar.request import Request, as_messages
from samovar.result import Generation, Timing, Usage
from samovar.session import current_session
from tests.fakes.fake_server import MODEL, SECONDS, FakeServer, Load, Reply, error_body


def run(**options: object) -> Run:
    clock = count(step=0.5)
    request = Request(as_messages("Hi", "Be brief"), **options)  # type: ignore[arg-type]
    return Run(current_session(), request, clock=lambda: next(clock))


def test_pieces_come_one_by_one_and_make_the_result(fake_server: FakeServer) -> None:
    generation = run(model="demo", temperature=0, seed=3, max_tokens=9, stop=("\n",), ttl=5)
    assert list(generation.pieces()) == ["Hello", " world", "!"]
    result = generation.result()
    assert (result.text, str(result), result.finish_reason, result.model) == ("Hello world!",) * 2 + (
        "stop",
        MODEL,
    )
    assert result.usage == Usage(7, 3, 10)
    # The clock moves by half a second at each look: start, sent, taken up, three pieces, end.
    assert result.timing == Timing(load_s=0.5, queue_s=0.5, ttft_s=1.0, total_s=3.0, tokens_per_second=2.0)
    expected = {
        "model": "demo",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "temperature": 0,
        "seed": 3,
        "max_tokens": 9,
        "stop": ["\n"],
        "ttl": 5,
    }
    assert result.request == expected
    sent = expected | {"stream": True, "stream_options": {"include_usage": True}}
    assert fake_server.asked_at("/v1/chat/completions") == [sent]
    assert fake_server.asked_at("/v1/models/load") == [{"model": "demo", "ttl": 5, "stream": True}]


def test_what_is_not_asked_for_is_not_sent(fake_server: FakeServer) -> None:
    assert set(samovar.generate("Hi").request) == {"messages", "seed"}
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert set(body) == {"messages", "seed", "stream", "stream_options"}


def test_every_rule_of_sampling_reaches_the_server(fake_server: FakeServer) -> None:
    result = samovar.generate(
        "Hi", top_k=40, min_p=0.05, presence_penalty=-0.5, frequency_penalty=0.25, repetition_penalty=1.1
    )
    assert {name: value for name, value in result.request.items() if name not in ("messages", "seed")} == {
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.1,
    }


def test_progress_comes_from_the_load_and_from_comments(fake_server: FakeServer) -> None:
    fake_server.enqueue(Load([{"phase": "weights", "fraction": 0.5}]))
    fake_server.enqueue(Reply(comments=["loading 43%", "waiting"]))
    seen: list[LoadProgress] = []
    list(run().pieces(seen.append))
    assert [(step.phase, step.fraction) for step in seen] == [
        ("weights", 0.5),
        ("loading", 0.43),
        ("waiting", 0.0),
    ]


def test_a_comment_between_pieces_is_no_progress(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(comments=["waiting"], comments_at=2))
    seen: list[LoadProgress] = []
    assert len(list(run().pieces(seen.append))) == 3
    assert seen == []


def test_leaving_the_loop_ends_it_on_the_server(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(hang_after=2))
    generation = run()
    with closing(generation.pieces()) as pieces:
        assert [next(pieces), next(pieces)] == ["Hello", " world"]
    assert fake_server.disconnected.wait(SECONDS)
    result = generation.result("interrupted")
    assert (result.text, result.finish_reason, result.usage) == ("Hello world", "interrupted", None)


@pytest.mark.parametrize("pieces", [0, 2])
def test_a_lost_connection_keeps_what_came(fake_server: FakeServer, pieces: int) -> None:
    fake_server.enqueue(Reply(drop_after=pieces))
    with pytest.raises(ConnectionLost) as error:
        samovar.generate("Hi")
    assert error.value.partial is not None
    assert error.value.partial.text == ["", "Hello", "Hello world"][pieces]
    assert error.value.partial.finish_reason == "error"


def test_an_error_in_the_middle_keeps_what_came(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(fail_after=1, error=error_body("model_crashed", "The model crashed.")))
    with pytest.raises(ServerError, match="The model crashed") as error:
        samovar.generate("Hi")
    assert error.value.code == "model_crashed"
    assert error.value.partial is not None
    assert error.value.partial.text == "Hello"


def test_a_refusal(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(error=error_body("invalid_value", "temperature: too hot", "temperature")))
    with pytest.raises(ServerError, match="too hot") as error:
        samovar.generate("Hi", temperature=1000)
    assert (error.value.status, error.value.param) == (400, "temperature")


def test_openais_client_is_connected(fake_server: FakeServer) -> None:
    with samovar.client() as client:
        fake_server.enqueue(Reply())
        answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content == "Hello world!"
        assert [model.id for model in client.models.list()] == [MODEL]


def test_how_a_result_looks() -> None:
    timing = Timing(load_s=2.5, ttft_s=0.21, total_s=4.0, tokens_per_second=18.34)
    result = Generation("<b>Tea</b>\nis", "length", "org/tea", Usage(1, 24, 25), timing, {})
    summary = "24 tokens · 18.3 tok/s · first token 0.21 s · load 2.5 s · cut off at the token limit · tea"
    assert result.summary() == summary
    assert repr(result) == f"<Generation '<b>Tea</b>\\nis': {summary}>"
    html = result._repr_html_()
    assert "&lt;b&gt;Tea&lt;/b&gt;\nis</pre>" in html
    assert summary in html


def test_a_result_of_nothing_looks_too() -> None:
    timing = Timing(load_s=0.0, ttft_s=None, total_s=0.1, tokens_per_second=None)
    assert Generation("", "interrupted", "tea", None, timing, {}).summary() == "interrupted · tea"
