from samovar.result import Generation, Timing, Usage
from samovar.widgets.grid import Grid
from samovar.widgets.settings import Setting, parse_setting


def grid(*columns: Setting) -> Grid:
    grid = Grid()
    grid.begin(["why?", "how?"], columns)
    return grid


def generation(text: str, finish_reason: str = "stop") -> Generation:
    return Generation(text, finish_reason, "org/m", Usage(3, 5, 8), Timing(0.0, 0.2, 1.0, 5.0), {})


def test_models_are_taken_one_after_the_other() -> None:
    two = grid(parse_setting("", "a"), parse_setting("", "b"))
    assert two.places() == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_columns_are_told_apart_by_what_differs() -> None:
    assert grid(parse_setting("", "org/a"), parse_setting("", "org/b")).labels() == ["a", "b"]
    assert grid(parse_setting("--top-k 1"), parse_setting("--seed 7")).labels() == ["--top-k 1", "--seed 7"]
    assert grid(parse_setting("--seed 1", "a"), parse_setting("--seed 2", "b")).labels() == [
        "a --seed 1",
        "b --seed 2",
    ]
    assert grid(parse_setting("", "org/a")).labels() == ["a"]
    assert grid(Setting()).labels() == ["the default model"]


def test_cells_fill_in() -> None:
    shown = grid(Setting())
    assert shown.busy
    shown.wait((0, 0), "Loading")
    assert (shown.cell((0, 0)).state, shown.cell((0, 0)).note) == ("running", "Loading")
    shown.add((0, 0), "Be")
    shown.add((0, 0), "cause")
    assert (shown.cell((0, 0)).text, shown.cell((0, 0)).note) == ("Because", "")
    shown.finish((0, 0), generation("Because"))
    shown.finish((1, 0), None, "It crashed.")
    assert not shown.busy
    assert [shown.cell(place).state for place in shown.places()] == ["done", "failed"]


def test_records_keep_what_was_asked_and_what_came() -> None:
    shown = grid(parse_setting("--temperature 0.5", "demo", 9))
    shown.finish((0, 0), generation("Because", "interrupted"))
    shown.finish((1, 0), None, "It crashed.")
    first, second = shown.rows()
    assert (first["prompt"], first["model"], first["temperature"]) == ("why?", "org/m", 0.5)
    assert (first["setting"], first["max_tokens"]) == ("--temperature 0.5", 9)
    assert (first["text"], first["state"], first["finish_reason"]) == ("Because", "stopped", "interrupted")
    assert (first["completion_tokens"], first["tokens_per_second"], first["ttft_s"]) == (5, 5.0, 0.2)
    assert (second["model"], second["text"], second["error"]) == ("demo", "", "It crashed.")
    assert first.keys() == second.keys()
