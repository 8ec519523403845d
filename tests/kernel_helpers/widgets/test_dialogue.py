import json
from pathlib import Path

import nbformat
import pytest

from samovar.result import Generation, Timing
from samovar.widgets.dialogue import Dialogue, Parameters, Turn
from samovar.widgets.export import as_notebook, write_notebook

TIMING = Timing(0.0, 0.1, 1.0, 9.0)


def generation(text: str) -> Generation:
    return Generation(text, "stop", "a/model", None, TIMING, {})


def talk(*texts: str) -> Dialogue:
    """Questions and answers in turn."""
    dialogue = Dialogue()
    for question, answer in zip(texts[::2], texts[1::2], strict=True):
        dialogue.ask(question)
        dialogue.finish(generation(answer))
    return dialogue


def test_an_answer_grows_below_its_question() -> None:
    dialogue = Dialogue()
    dialogue.system = "Be short."
    dialogue.ask("Hello?")
    assert dialogue.messages() == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello?"},
    ]
    dialogue.wait("Loading")
    assert dialogue.shown()[-1] == Turn("assistant", "", "Loading")
    dialogue.add("Hi")
    dialogue.add(" there")
    assert dialogue.shown()[-1] == Turn("assistant", "Hi there")
    assert dialogue.busy
    dialogue.finish(generation("Hi there"))
    assert not dialogue.busy
    assert dialogue.shown()[-1] == Turn("assistant", "Hi there", "9.0 tok/s · first token 0.10 s · model")


def test_asking_again_drops_the_last_answer_only() -> None:
    dialogue = talk("a", "1", "b", "2")
    dialogue.ask_again()
    assert [turn.text for turn in dialogue.turns] == ["a", "1", "b"]
    dialogue.finish(None)
    dialogue.ask_again()  # there is no answer to drop
    assert [turn.text for turn in dialogue.turns] == ["a", "1", "b"]


def test_an_edited_question_takes_the_place_of_all_that_followed() -> None:
    dialogue = talk("a", "1", "b", "2", "c", "3")
    assert dialogue.edit(2) == "b"
    assert len(dialogue.turns) == 6
    dialogue.ask("B")
    assert [turn.text for turn in dialogue.turns] == ["a", "1", "B"]
    assert dialogue.editing is None


def test_clearing_ends_an_edit() -> None:
    dialogue = talk("a", "1")
    dialogue.edit(0)
    dialogue.clear()
    dialogue.ask("new")
    assert [turn.text for turn in dialogue.turns] == ["new"]


def test_the_exported_notebook_holds_the_conversation(tmp_path: Path) -> None:
    turns = talk("Is {this} 'it'?", "Yes.", "Sure?", "No.").turns
    path = tmp_path / "chat.ipynb"
    write_notebook(path, turns, "Be short.", Parameters("demo", 0.5, seed=1))
    notebook = nbformat.reads(path.read_text(), as_version=4)
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == [
        "%load_ext samovar",
        "%%generate --chat exported --literal --model demo --temperature 0.5 --seed 1 --system 'Be short.'\n"
        "Is {this} 'it'?",
        "%%generate --chat exported --literal --model demo --temperature 0.5 --seed 1\nSure?",
    ]
    assert [cell.outputs[0].data["text/plain"] for cell in notebook.cells[1:]] == ["Yes.", "No."]
    with pytest.raises(FileExistsError):
        write_notebook(path, [], "", Parameters())


def test_a_notebook_of_nothing_is_valid() -> None:
    nbformat.validate(nbformat.reads(json.dumps(as_notebook([], "", Parameters())), as_version=4))
