"""`%%generate` with several models, several answers, schemas and log-probabilities."""

import json
import math

import pytest
from IPython.core.interactiveshell import InteractiveShell

import samovar
from samovar.answers import Answers
from samovar.errors import BadAnswer, Interrupted
from tests.fakes.fake_server import MODEL, SECONDS, FakeServer, Load, Reply, error_body
from tests.kernel_helpers.conftest import Front
from tests.kernel_helpers.magics.cells import generate, refused, run


def test_several_models_answer_side_by_side(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    fake_server.enqueue_for("a", Reply(["From <a>"]))
    fake_server.enqueue_for("b", Reply(["From b"]))
    answers = run(shell, "Say hello", "-m a -m b --temperature 0 --out both")
    assert isinstance(answers, Answers)
    assert answers.texts == ["From <a>", "From b"]
    assert shell.user_ns["both"] is shell.user_ns["_"] is answers
    (shown,) = front.final()
    assert shown["text/html"].index("<b>a</b>") < shown["text/html"].index("From &lt;a&gt;")
    assert shown["text/html"].index("<b>b</b>") < shown["text/html"].index("From b")
    assert shown["text/html"].count("tokens") == 2
    assert sorted(body["model"] for body in fake_server.asked_at("/v1/chat/completions")) == ["a", "b"]
    assert {body["temperature"] for body in fake_server.asked_at("/v1/chat/completions")} == {0}


def test_answers_as_a_table(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    answers = run(shell, "x", "-m a -m b")
    assert isinstance(answers, Answers)
    frame = answers.dataframe()
    assert list(frame["text"]) == ["Hello world!"] * 2
    assert list(frame["completion_tokens"]) == [3, 3]


def test_several_models_as_markdown_are_one_below_the_other(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    run(shell, "x", "-m a -m b --markdown")
    (shown,) = front.final()
    assert shown["text/markdown"].startswith("### a\n\nHello world!\n\n*3 tokens")


@pytest.mark.parametrize("line", ["-m a -m b", "-m a --n 2"])
def test_in_a_terminal_each_is_written_when_it_is_whole(
    shell: InteractiveShell, fake_server: FakeServer, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    run(shell, "x", line)
    out = capsys.readouterr().out
    titles = ["b:\n", "a:\n"] if "b" in line else ["a [1]:\n", "a [2]:\n"]
    for title in titles:
        assert f"{title}Hello world!\n(" in out


def test_one_model_that_fails_leaves_the_answer_of_the_other(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    fake_server.enqueue_for("b", Reply(error=error_body("model_crashed", "b crashed.")))
    with pytest.raises(samovar.ServerError, match="b crashed"):
        run(shell, "x", "-m a -m b")
    answers = shell.user_ns["_"]
    assert answers.texts == ["Hello world!", ""]
    side_by_side, _ = front.final()
    assert "b crashed." in side_by_side["text/html"]


def test_a_model_without_room_is_asked_again_when_the_others_are_done(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    fake_server.enqueue_for("b", Reply(error=error_body("insufficient_memory", "No room."), status=507))
    answers = run(shell, "x", "-m a -m b")
    assert isinstance(answers, Answers)
    assert answers.texts == ["Hello world!"] * 2
    assert [body["model"] for body in fake_server.asked_at("/v1/chat/completions")].count("b") == 2


def test_an_interrupt_keeps_what_came_of_each(
    shell: InteractiveShell,
    front: Front,
    fake_server: FakeServer,
    interrupt_when_hanging: None,
) -> None:
    fake_server.enqueue_for("a", Reply(hang_after=1))
    fake_server.enqueue_for("b", Reply(hang_after=1))
    with pytest.raises(Interrupted):
        run(shell, "x", "-m a -m b")
    assert fake_server.disconnected.wait(SECONDS)
    assert [result.finish_reason for result in shell.user_ns["_"]] == ["interrupted"] * 2


def test_several_answers_of_one_model(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    result = generate(shell, "x", "--n 2")
    assert [choice.text for choice in result.choices] == ["Hello world!"] * 2
    (shown,) = front.final()
    assert "[1]" in shown["text/html"]
    assert "[2]" in shown["text/html"]


def test_an_answer_held_to_a_schema(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(['{"name": ', '"tea", "cups": 3}']))
    shell.run_cell("order = {'type': 'object', 'properties': {'name': {'type': 'string'}}}")
    result = generate(shell, "x", "--json order")
    assert result.json == result.parsed == {"name": "tea", "cups": 3}
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": shell.user_ns["order"], "strict": True},
    }


def test_a_pydantic_class_as_schema(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(['{"name": "tea", "cups": 3}']))
    shell.run_cell("from pydantic import BaseModel\nclass Order(BaseModel):\n    name: str\n    cups: int")
    result = generate(shell, "x", "--json Order")
    assert result.parsed == shell.user_ns["Order"](name="tea", cups=3)
    (body,) = fake_server.asked_at("/v1/chat/completions")
    schema = shell.user_ns["Order"].model_json_schema()
    # What the class does not know is no part of the answer.
    assert body["response_format"]["json_schema"]["schema"] == schema | {"additionalProperties": False}


def test_json_that_was_cut_off(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(['{"name": '], finish_reason="length"))
    shell.run_cell("order = {'type': 'object'}")
    result = generate(shell, "x", "--json order")
    with pytest.raises(BadAnswer, match=r"not whole JSON \(cut off at the token limit\)\. Raise max_tokens"):
        _ = result.json


def test_a_misspelt_schema_gets_the_nearest(shell: InteractiveShell) -> None:
    shell.run_cell("order = {'type': 'object'}")
    assert refused(shell, "x", "--json oder") == "--json: there is no variable oder. Did you mean order?"


def test_logprobs(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    result = generate(shell, "x", "--logprobs 2")
    assert result.logprobs is not None
    assert [score.text for score in result.logprobs] == ["Hello", " world", "!"]
    assert math.exp(result.logprobs[0].logprob or 0) == pytest.approx(0.5, abs=0.01)
    assert [text for text, _ in result.logprobs[0].alternatives] == ["Hello", "other"]
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    assert generate(shell, "x").logprobs is None


def test_every_option_reaches_the_server(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    line = (
        "--min-tokens 2 --logit-bias 5=-100 --logit-bias 7=2.5 --stop-token-ids 3 4 --ignore-eos --exact "
        "--backend transformers --device cpu --dtype float32 --quantization int4 --context-length 512 --ttl 9"
    )
    generate(shell, "x", line)
    load = {
        "backend": "transformers",
        "device": "cpu",
        "dtype": "float32",
        "quantization": "int4",
        "context_length": 512,
        "ttl": 9,
    }
    expected = load | {
        "min_tokens": 2,
        "logit_bias": {"5": -100, "7": 2.5},
        "stop_token_ids": [3, 4],
        "ignore_eos": True,
        "exact": True,
    }
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert {name: body.get(name) for name in expected} == expected
    (body,) = fake_server.asked_at("/v1/models/load")
    assert body == load | {"stream": True}


def test_the_notebook_records_how_an_answer_came_about(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    result = generate(shell, "x", "--temperature 0.5")
    assert shell.display_formatter is not None
    data, metadata = shell.display_formatter.format(result)
    assert set(data) == {"text/plain", "text/html"}
    told = json.loads(json.dumps(metadata))["samovar"]
    assert told["model"] == MODEL
    assert told["revision"] == "main-commit"
    assert told["parameters"] == {"temperature": 0.5, "seed": result.request["seed"]}
    assert set(told["versions"]) == {"client", "python", "torch"}
    assert told["timing"]["queue_s"] is not None


def test_a_result_can_be_asked_for_again(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    shell.run_cell("order = {'type': 'object'}")
    result = generate(
        shell, "Say hello", "-m a --system 'Be brief' --json order --logprobs 1 --dtype float32"
    )
    samovar.chat(**result.request)
    first, second = fake_server.asked_at("/v1/chat/completions")
    assert first == second
    first, second = fake_server.asked_at("/v1/models/load")
    assert first == second


def test_each_run_without_a_seed_draws_another_one(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    seeds = {generate(shell, "x").request["seed"] for _ in range(3)}
    assert len(seeds) > 1


def test_a_long_wait_is_never_silent(
    shell: InteractiveShell, front: Front, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samovar.background.TICK_SECONDS", 0.01)
    fake_server.enqueue(Load(pause=0.2))
    generate(shell, "x")
    assert front.texts()[0] == "the model: waiting for the first token"
    assert front.texts()[-1] == "Hello world!"


def test_a_server_that_comes_back_is_found_by_the_next_cell(
    shell: InteractiveShell, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer() as first:
        monkeypatch.setenv("SAMOVAR_URL", first.url)
        monkeypatch.setenv("SAMOVAR_TOKEN", first.token)
        generate(shell, "x")
    told = refused(shell, "x")
    assert told.startswith(f"The samovar server at {first.url} does not answer")
    with FakeServer(port=int(first.url.rpartition(":")[2].removesuffix("/v1"))) as second:
        assert second.url == first.url
        assert generate(shell, "x").text == "Hello world!"
