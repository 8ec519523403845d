import io

import pytest

from samovar.display import CellScreen
from samovar.progress import ProgressLine, Wait, bar, duration, size, time_left
from samovar.records import LoadedModel, LoadProgress
from samovar.tables import leaves, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_600, "1.0 MB"),
        (538_000_000, "538 MB"),
        (1_234_567_890, "1.2 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("fraction", "filled"), [(-1, 0), (0, 0), (0.5, 12), (1, 24), (2, 24)])
def test_bar(fraction: float, filled: int) -> None:
    assert bar(fraction) == "█" * filled + "░" * (24 - filled)


def test_on_a_terminal_the_line_is_overwritten_and_taken_away() -> None:
    terminal = Terminal()
    line = ProgressLine(terminal)
    line.show("one", phase="a", fraction=0)
    line.show("one", phase="a", fraction=0)
    line.show("two", phase="a", fraction=0.01)
    line.close()
    line.close()
    assert terminal.getvalue() == "\r\x1b[2Kone\r\x1b[2Ktwo\r\x1b[2K"


def test_a_line_does_not_run_over_the_edge_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    ProgressLine(terminal).show("x" * 50, phase="a", fraction=0)
    assert terminal.getvalue().count("x") == 19


def test_in_a_log_there_are_few_lines() -> None:
    log = io.StringIO()
    line = ProgressLine(log)
    for percent in range(101):
        line.show(f"{percent}", phase="a", fraction=percent / 100)
    line.show("next", phase="b", fraction=1)
    line.close()
    assert log.getvalue().split() == ["0", "25", "50", "75", "100", "next"]


def test_a_long_text_is_sent_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[dict[str, str]] = []

    class Handle:
        def update(self, bundle: dict[str, str], raw: bool) -> None:
            updates.append(bundle)

    def display(bundle: dict[str, str], **more: object) -> Handle:
        updates.append(bundle)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    now = [0.0]
    screen = CellScreen("demo", clock=lambda: now[0])
    for _ in range(1000):
        screen.add("x" * 100)
        now[0] += 0.01
    screen.close()
    assert 50 < len(updates) < 200
    assert updates[-1]["text/plain"] == "x" * 100_000


def model(**more: object) -> LoadedModel:
    return LoadedModel.from_json({"model": "m", "state": "ready", "ttl": 300.0, "ttl_remaining": 42.4} | more)


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        (model(), "in 42 s"),
        (model(in_flight=1), "300 s after its last use"),
        (model(ttl_remaining=None), "300 s after its last use"),
        (model(pinned=True), "never (pinned)"),
        (model(ttl=0.0, ttl_remaining=None), "never"),
        (model(state="starting"), ""),
        (model(unknown="field of a newer server"), "in 42 s"),
    ],
)
def test_when_a_model_leaves(loaded: LoadedModel, text: str) -> None:
    assert leaves(loaded) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_a_time_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_table() -> None:
    assert table(["A", "LONG"], [["wide cell", ""], ["x", "y"]]) == "A          LONG\nwide cell\nx          y"


def test_a_wait_says_how_long_it_still_is_or_has_been() -> None:
    now = 0.0
    wait = Wait("demo", clock=lambda: now)
    assert wait.words() == "demo: waiting for the first token"
    now = 2.0
    assert wait.words() == "demo: waiting for the first token  2 s"
    wait.note(LoadProgress("weights", 0.25, 250, 1000))
    assert wait.words().endswith("reading the weights  250 B of 1 kB")  # a wait of its own, just begun
    now = 5.0
    assert wait.words().endswith("250 B of 1 kB  about 9 s left")
    wait.note(LoadProgress("waiting", 0.0))
    assert wait.words() == "demo: waiting for the first token"


@pytest.mark.parametrize(
    ("fraction", "elapsed", "left"),
    [(0.5, 10.0, 10.0), (0.01, 10.0, None), (0.5, 0.1, None), (1.0, 10.0, None)],
)
def test_the_time_left_is_told_when_it_is_more_than_a_guess(
    fraction: float, elapsed: float, left: float | None
) -> None:
    assert time_left(fraction, elapsed) == left
