"""Tab behind the magics, as IPython answers it."""

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from samovar.errors import NoServer
from samovar.magics.completion import ModelNames
from tests.fakes.fake_server import MODEL, FakeServer


def tab(shell: InteractiveShell, text: str) -> set[str]:
    """What the text becomes for each of the offers."""
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return {text[: each.start] + each.text for each in found}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("%%generate --temp", {"--temperature"}),
        (
            "%%generate --m",
            {"--model", "--max-tokens", "--min-p", "--min-tokens", "--max-model-len", "--markdown"},
        ),
        ("%%generate --dtype fl", {"float32", "float16"}),
        ("%%generate --dtype=b", {"--dtype=bfloat16"}),
        ("%%generate --seed 3 --see", set()),
        ("%%generate --model a --mod", {"--model"}),
        ("%%generate --model Hugging", {MODEL}),
        ("%%generate -m org/n", {"org/name:Q4_K_M", "org/name:Q8_0"}),
        ("%%generate -m org/name:Q8", {"org/name:Q8_0"}),
        ("%%generate --json or", {"order"}),
        ("%%generate --chat t", {"tea"}),
        ("%samovar un", {"unload"}),
        ("%samovar load --q", {"--quantization"}),
        ("%samovar load Hugging", {MODEL}),
        ("%samovar load --dtype fl", {"float32", "float16"}),
        ("%samovar use org/name:Q4", {"org/name:Q4_K_M"}),
        ("%samovar nothing x", set()),
    ],
)
def test_tab(shell: InteractiveShell, fake_server: FakeServer, typed: str, offered: set[str]) -> None:
    fake_server.models = [MODEL, "org/name:Q4_K_M", "org/name:Q8_0"]
    shell.run_cell("order = {'type': 'object'}\ntopic = 'order'\n%load_ext samovar")
    shell.run_cell("%%generate --chat tea --raw\nx")
    start = typed.rpartition(" ")[0] + " "
    # With nothing to offer, IPython goes on to its own, such as file names.
    found = {text for text in tab(shell, typed) if offered or text.startswith(f"{start}-")}
    assert found == {start + word for word in offered}


def test_only_the_first_line_of_a_cell_is_the_magics(
    shell: InteractiveShell, fake_server: FakeServer
) -> None:
    assert not {text for text in tab(shell, "%%generate\n--temp") if text.endswith("--temperature")}


def test_without_a_server_tab_offers_what_needs_none(shell: InteractiveShell) -> None:
    assert tab(shell, "%%generate --temp") == {"%%generate --temperature"}
    assert "%%generate --model x" not in tab(shell, "%%generate --model ")


def test_the_server_is_not_asked_at_every_press() -> None:
    now, asked = 0.0, 0

    def ask() -> list[str]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise NoServer
        return [f"model-{asked}"]

    names = ModelNames(ask, clock=lambda: now)
    assert (names(), names()) == (["model-1"], ["model-1"])
    now = 60.0
    assert names() == ["model-1"]  # it did not answer: those of before, and the next press asks again
    assert names() == ["model-3"]


def test_after_unload_ext_nothing_is_offered(shell: InteractiveShell, fake_server: FakeServer) -> None:
    shell.run_line_magic("reload_ext", "samovar")
    assert tab(shell, "%samovar un") == {"%samovar unload"}
    shell.run_line_magic("unload_ext", "samovar")
    assert "%samovar unload" not in tab(shell, "%samovar un")
