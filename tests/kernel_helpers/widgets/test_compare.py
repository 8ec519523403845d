import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

from samovar.errors import BadOption
from samovar.widgets import Compare
from tests.fakes.fake_server import SECONDS, Reply, error_body
from tests.fakes.fake_workbench import FakeWorkbench
from tests.kernel_helpers.widgets.conftest import Watch, press, text_of


def test_the_grid_fills_in(server: FakeWorkbench, until: Watch) -> None:
    settings = ["--temperature 0 --seed 3", "--temperature 0.5 --seed 3 --system 'Be <short>'"]
    compare = Compare(["Why <is> it?", "How?"], ["org/a", "org/b"], settings=settings)
    press(compare, "Run")
    until(compare, lambda: not compare.state.busy)
    assert "Why &lt;is&gt; it?" in text_of(compare)
    assert "a --temperature 0 --seed 3" in text_of(compare)
    assert text_of(compare).count("Hello world!") == 8
    asked = {
        (
            body["messages"][-1]["content"],
            body["model"],
            body["temperature"],
            body["seed"],
            body["max_tokens"],
        )
        for body in server.asked_at("/v1/chat/completions")
    }
    assert asked == {
        (prompt, model, temperature, 3, 128)
        for prompt in ("Why <is> it?", "How?")
        for model in ("org/a", "org/b")
        for temperature in (0.0, 0.5)
    }
    assert [record["text"] for record in compare.rows()] == ["Hello world!"] * 8
    compare.close()


def test_errors_stay_in_their_cells_and_stop_ends_the_rest(server: FakeWorkbench, until: Watch) -> None:
    server.enqueue(
        Reply(error=error_body("invalid", "Too <long>.")), *[Reply(["Once", "x"], hang_after=1)] * 9
    )
    compare = Compare([str(number) for number in range(10)])
    compare.start()
    press(compare, "Run")
    until(compare, lambda: "Error: Too &lt;long&gt;." in text_of(compare))
    until(compare, lambda: text_of(compare).count("Once") >= 4)
    press(compare, "Stop")
    until(compare, lambda: not compare.state.busy)
    states = [record["state"] for record in compare.rows()]
    assert sorted(states) == ["failed", *["stopped"] * 9]
    assert server.disconnected.wait(SECONDS)
    compare.close()


def test_wrong_entries_are_named(server: FakeWorkbench) -> None:
    compare = Compare()
    press(compare, "Run")
    assert "Write a prompt first." in text_of(compare)
    compare.prompts.value = "Why?"
    for line, wrong in (
        ("--temprature 1", "Did you mean --temperature?"),
        ("--temperature hot", "&#x27;hot&#x27; is not a number"),
        ("--dtype float8", "float16"),
        ("--system 'open", "No closing quotation"),
        ("--model org/a", "Models are named in the field above"),
        ("--n 2", "One place shows one answer"),
    ):
        compare.settings.value = line
        press(compare, "Run")
        assert wrong in text_of(compare)
        with pytest.raises(BadOption):
            compare.run()
    assert server.asked == []
    compare.close()


def test_export_to_a_variable(server: FakeWorkbench, until: Watch, shell: InteractiveShell) -> None:
    compare = Compare(["Why?"])
    press(compare, "Run")
    until(compare, lambda: not compare.state.busy)
    compare.variable.value = "class"
    press(compare, "Export")
    assert "&#x27;class&#x27; cannot be the name of a variable." in text_of(compare)
    compare.variable.value = "answers"
    press(compare, "Export")
    assert "answers is a" in text_of(compare)
    assert len(shell.user_ns["answers"]) == 1
    compare.close()


def test_without_pandas_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    compare = Compare()
    with pytest.raises(BadOption, match="pip install pandas"):
        compare.dataframe()
    compare.close()


def test_with_pandas_a_row_is_an_answer(server: FakeWorkbench, until: Watch) -> None:
    compare = Compare(["Why?", "How?"], settings=["--top-p 0.5"])
    compare.run()
    frame = compare.dataframe()
    assert list(frame["text"]) == ["Hello world!"] * 2
    assert list(frame["top_p"]) == [0.5, 0.5]
    compare.close()
