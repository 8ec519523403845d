"""`samovar.map`."""

import json
import threading
from pathlib import Path

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from pydantic import BaseModel

import samovar
from samovar.errors import BadOption, BadPrompt, ConnectionLost, Interrupted, ServerError
from tests.fakes.fake_server import FakeServer, Load, Reply, error_body
from tests.kernel_helpers.conftest import Front

TEAS = ["Assam", "Sencha", "Oolong"]


class Tea(BaseModel):
    colour: str
    minutes: int


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samovar.finished._kept", {})


def prompts(server: FakeServer) -> list[str]:
    return sorted(body["messages"][-1]["content"] for body in server.asked_at("/v1/chat/completions"))


def test_a_list(fake_server: FakeServer) -> None:
    rows = samovar.map(TEAS, "Describe {item}.", temperature=0, system="On {item}")
    assert rows == [{"item": tea, "answer": "Hello world!", "error": None} for tea in TEAS]
    assert prompts(fake_server) == [f"Describe {tea}." for tea in sorted(TEAS)]
    bodies = fake_server.asked_at("/v1/chat/completions")
    assert {body["messages"][0]["content"] for body in bodies} == {f"On {tea}" for tea in TEAS}
    assert {body["temperature"] for body in bodies} == {0}


def test_a_dataframe_keeps_its_index_and_its_columns(fake_server: FakeServer) -> None:
    frame = pd.DataFrame({"tea": TEAS, "grams": [1.5, 2.0, 3.0]}, index=["x", "y", "z"])
    done = samovar.map(frame, "Is {grams:.1f} g of {tea} enough?", concurrency=1)
    assert isinstance(done, pd.DataFrame)
    assert list(done.columns) == ["tea", "grams", "answer", "error"]
    assert list(done.index) == ["x", "y", "z"]
    assert list(done["answer"]) == ["Hello world!"] * 3
    assert list(frame.columns) == ["tea", "grams"]
    assert prompts(fake_server)[0] == "Is 1.5 g of Assam enough?"


def test_answers_are_in_order_however_they_come(fake_server: FakeServer) -> None:
    fake_server.echo = True
    rows = samovar.map(list(range(40)), "{item}", concurrency=8)
    assert [row["answer"] for row in rows] == [str(number) for number in range(40)]


def test_a_schema_fills_columns(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(['{"colour": "red", ', '"minutes": 4}']))
    (row,) = samovar.map(["Assam"], "{item}", schema=Tea)
    assert (row["colour"], row["minutes"], row["error"]) == ("red", 4, None)
    assert json.loads(row["answer"]) == {"colour": "red", "minutes": 4}


def test_an_error_is_kept_with_its_row_and_asked_about_again(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(), Reply(error=error_body("server_busy", "Busy.")), Reply())
    rows = samovar.map(TEAS, "{item}", concurrency=1)
    assert [row["answer"] for row in rows] == ["Hello world!", None, "Hello world!"]
    assert [row["error"] for row in rows] == [None, "Busy.", None]
    rows = samovar.map(TEAS, "{item}", concurrency=1)
    assert [row["error"] for row in rows] == [None] * 3
    assert prompts(fake_server) == ["Assam", "Oolong", "Sencha", "Sencha"]


def test_json_that_was_cut_off_is_an_error_of_its_row(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(['{"colour"'], finish_reason="length"))
    (row,) = samovar.map(["Assam"], "{item}", schema=Tea)
    assert row["answer"] is None
    assert "cut off at the token limit" in row["error"]


@pytest.mark.parametrize("in_a_file", [False, True])
def test_after_an_interrupt_the_same_call_goes_on(
    fake_server: FakeServer, interrupt_when_hanging: None, tmp_path: Path, in_a_file: bool
) -> None:
    store = tmp_path / "teas.jsonl" if in_a_file else None
    fake_server.enqueue(Reply(["One"]), Reply(hang_after=0))
    with pytest.raises(Interrupted, match=r"1 of 3 rows are finished; the same call again goes on") as error:
        samovar.map(TEAS, "{item}", concurrency=1, store=store)
    assert [row["answer"] for row in error.value.partial] == ["One", None, None]
    assert error.value.partial[2]["error"] == "not asked yet"
    rows = samovar.map(TEAS, "{item}", concurrency=1, store=store)
    assert [row["answer"] for row in rows] == ["One", "Hello world!", "Hello world!"]
    assert prompts(fake_server) == ["Assam", "Oolong", "Sencha", "Sencha"]
    # What is whole is asked anew by the next call, unless a file keeps it.
    samovar.map(TEAS, "{item}", concurrency=1, store=store)
    assert len(prompts(fake_server)) == (4 if in_a_file else 7)


def test_half_a_line_where_a_kernel_was_killed(fake_server: FakeServer, tmp_path: Path) -> None:
    store = tmp_path / "teas.jsonl"
    samovar.map(TEAS[:2], "{item}", store=store, seed=1)
    whole = store.read_bytes()
    store.write_bytes(whole[:-20])
    assert len(samovar.map(TEAS[:2], "{item}", store=store, seed=1)) == 2
    assert sorted(store.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_bar_shows_how_far_it_is_and_goes(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    fake_server.enqueue(Reply(), Reply(error=error_body("server_busy", "Busy.")))
    samovar.map(TEAS, "{item}", concurrency=1)
    assert "░  0 of 3 rows" in front.texts()[0]
    assert any("█  3 of 3 rows  1 failed" in text for text in front.texts())
    assert set(front.outputs()) == {""}


def test_equal_rows_are_each_asked(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(["One"]), Reply(["Two"]))
    rows = samovar.map(["tea", "tea"], "{item}", concurrency=1)
    assert [row["answer"] for row in rows] == ["One", "Two"]


def test_a_lost_server_ends_it_and_keeps_what_is_finished(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(["One"]), Reply(drop_after=0))
    with pytest.raises(ConnectionLost):
        samovar.map(TEAS, "{item}", concurrency=1)
    assert samovar.map(TEAS, "{item}", concurrency=1)[0]["answer"] == "One"
    assert prompts(fake_server).count("Assam") == 1


def test_what_is_wrong_with_the_model_is_told_once(fake_server: FakeServer) -> None:
    fake_server.enqueue(Load(error=error_body("model_not_found", "No such model.", "model")))
    with pytest.raises(ServerError, match="No such model"):
        samovar.map(TEAS, "{item}", model="x")
    assert not prompts(fake_server)


def test_no_rows(fake_server: FakeServer) -> None:
    assert samovar.map([], "{item}") == []
    assert not fake_server.asked


def test_no_more_at_once_than_asked_for(fake_server: FakeServer) -> None:
    before = threading.active_count()
    most = 0
    fake_server.echo = True
    original = fake_server.next_reply

    def count(model: str | None) -> Reply:
        nonlocal most
        most = max(most, threading.active_count() - before)
        return original(model)

    fake_server.next_reply = count  # type: ignore[method-assign]
    samovar.map(list(range(20)), "{item}", concurrency=3)
    assert 1 <= most <= 3


@pytest.mark.parametrize(
    ("rows", "template", "more", "told"),
    [
        ([{"tea": "x"}], "{te}", {}, "The template has {te}, but there is no variable te. Did you mean tea?"),
        ([{"answer": "x"}], "x", {}, "rows: there is a column answer already, and the answers need it."),
        ([{"colour": "x"}], "x", {"schema": Tea}, "rows: there is a column colour already"),
        ("Assam", "{item}", {}, "rows: a DataFrame or a list is needed, and this is a str."),
        (["x"], "{item}", {"n": 2}, "n: each row is asked once; repeat the rows to ask more often."),
        (["x"], "{item}", {"concurrency": 0}, "concurrency: 0 rows at a time would never end"),
        (["x"], "{item}", {"modle": "x"}, "There is no parameter modle. Did you mean model?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(
    fake_server: FakeServer, rows: object, template: str, more: dict[str, object], told: str
) -> None:
    with pytest.raises((BadOption, BadPrompt)) as error:
        samovar.map(rows, template, **more)
    assert str(error.value).startswith(told)
    assert not fake_server.asked


@pytest.mark.parametrize("text", ["hello\n", "hello", '{"key": 1}\n'])
def test_a_file_of_something_else(fake_server: FakeServer, tmp_path: Path, text: str) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text(text)
    with pytest.raises(BadOption, match=r"store: .*notes\.txt was not written by samovar\.map"):
        samovar.map(TEAS, "{item}", store=notes)
    assert notes.read_text() == text
