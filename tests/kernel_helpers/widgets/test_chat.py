from pathlib import Path

import pytest

from samovar.widgets import Chat
from tests.fakes.fake_server import SECONDS, Load, Reply, error_body
from tests.fakes.fake_workbench import FakeWorkbench
from tests.kernel_helpers.widgets.conftest import Watch, parts, press, text_of

STORY = Reply(pieces=["Once", " upon", " a time"])


def ask(chat: Chat, text: str) -> None:
    chat.text.value = text
    press(chat, "Send")


def asked(server: FakeWorkbench) -> list[str]:
    """The last request's messages, the system text among them."""
    return [message["content"] for message in server.asked_at("/v1/chat/completions")[-1]["messages"]]


def test_an_answer_streams_in(server: FakeWorkbench, until: Watch) -> None:
    server.enqueue(STORY)
    chat = Chat("demo", system="Be short.", temperature=0.5, max_tokens=9)
    ask(chat, "Tell me <something>.")
    assert chat.text.value == ""
    until(chat, lambda: not chat.state.busy)
    assert "Tell me &lt;something&gt;." in text_of(chat)
    assert "Once upon a time" in text_of(chat)
    assert "tok/s" in text_of(chat) or "first token" in text_of(chat)
    body = server.asked_at("/v1/chat/completions")[0]
    assert asked(server) == ["Be short.", "Tell me <something>."]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("demo", 0.5, 9)
    assert "top_p" not in body
    ask(chat, "More.")
    until(chat, lambda: not chat.state.busy)
    assert asked(server) == ["Be short.", "Tell me <something>.", "Once upon a time", "More."]
    chat.close()


def test_stop_keeps_what_has_come(server: FakeWorkbench, until: Watch) -> None:
    server.enqueue(Reply(pieces=["Once", " more"], hang_after=1))
    chat = Chat()
    ask(chat, "Tell me.")
    until(chat, lambda: "Once" in text_of(chat))
    assert chat.send_button.disabled
    press(chat, "Stop")
    until(chat, lambda: not chat.state.busy)
    assert server.disconnected.wait(SECONDS)
    assert "interrupted" in text_of(chat)
    assert chat.state.turns[-1].text == "Once"
    chat.close()


def test_stop_while_the_model_loads(server: FakeWorkbench, until: Watch) -> None:
    server.enqueue(Load([{"phase": "weights", "fraction": 0.5}], hang=True))
    chat = Chat()
    ask(chat, "Tell me.")
    until(chat, lambda: "reading the weights" in text_of(chat))
    press(chat, "Stop")
    until(chat, lambda: not chat.state.busy)
    assert [turn.text for turn in chat.state.turns] == ["Tell me."]
    assert "Stopped before an answer came." in text_of(chat)
    assert "Error" not in text_of(chat)
    press(chat, "Regenerate")
    until(chat, lambda: not chat.state.busy)
    assert chat.state.turns[-1].text == "Hello world!"
    chat.close()


def test_regenerate_and_edit(server: FakeWorkbench, until: Watch) -> None:
    chat = Chat()
    for text in ("first", "second"):
        ask(chat, text)
        until(chat, lambda: not chat.state.busy)
    server.enqueue(STORY)
    press(chat, "Regenerate")
    until(chat, lambda: not chat.state.busy)
    assert asked(server) == ["first", "Hello world!", "second"]
    assert [turn.text for turn in chat.state.turns][2:] == ["second", "Once upon a time"]
    first_edit = next(part for part in parts(chat.rows.box) if getattr(part, "description", "") == "Edit")
    first_edit.click()
    assert chat.text.value == "first"
    assert "Sending replaces question 1 and what follows." in text_of(chat)
    ask(chat, "first, better")
    until(chat, lambda: not chat.state.busy)
    assert asked(server) == ["first, better"]
    assert len(chat.rows.box.children) == 2
    chat.close()


def test_what_goes_wrong_is_said_and_what_had_come_is_kept(server: FakeWorkbench, until: Watch) -> None:
    server.enqueue(
        Reply(pieces=["Once", "x"], fail_after=1, error=error_body("model_crashed", "It crashed."))
    )
    chat = Chat()
    ask(chat, "Tell me.")
    until(chat, lambda: "Error: It crashed." in text_of(chat))
    assert chat.state.turns[-1].text == "Once"
    assert not chat.state.busy
    chat.seed.value = "lucky"
    press(chat, "Regenerate")
    assert "Error: The seed is a whole number or empty" in text_of(chat)
    chat.seed.value = "7"
    press(chat, "Regenerate")
    until(chat, lambda: not chat.state.busy)
    assert server.asked_at("/v1/chat/completions")[-1]["seed"] == 7
    chat.close()


def test_export_writes_a_new_notebook_each_time(
    server: FakeWorkbench, until: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chat = Chat()
    ask(chat, "Tell me.")
    until(chat, lambda: not chat.state.busy)
    press(chat, "Export")
    press(chat, "Export")
    assert "Written to chat-2.ipynb" in text_of(chat)
    assert {path.name for path in tmp_path.glob("*.ipynb")} == {"chat.ipynb", "chat-2.ipynb"}
    press(chat, "Clear")
    assert chat.rows.box.children == ()
    assert chat.export_button.disabled
    chat.close()


def test_closing_stops_the_answer(server: FakeWorkbench, until: Watch) -> None:
    server.enqueue(Reply(pieces=["Once", " more"], hang_after=1))
    chat = Chat()
    chat.start()
    ask(chat, "Tell me.")
    until(chat, lambda: "Once" in text_of(chat))
    chat.close()
    assert server.disconnected.wait(SECONDS)
    assert chat.join(SECONDS)
