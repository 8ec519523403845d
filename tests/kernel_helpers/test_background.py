import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from samovar.background import heard
from tests.fakes.fake_server import SECONDS


class Say:
    def __init__(self, words: str, error: Exception | None = None) -> None:
        self.words = words
        self.error = error
        self.stopped = threading.Event()

    def run(self, tell: Callable[[str], None]) -> None:
        for word in self.words.split():
            tell(word)
        if self.error:
            raise self.error

    def stop(self) -> None:
        self.stopped.set()


class Hang(Say):
    def run(self, tell: Callable[[str], None]) -> None:
        super().run(tell)
        assert self.stopped.wait(SECONDS)


def test_what_is_told_is_heard_in_order() -> None:
    assert list(heard([Say("one two"), Say("three")])) == ["one", "two", "three"]


def test_no_more_run_at_once_than_asked_for() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    class Count(Say):
        def run(self, tell: Callable[[str], None]) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            tell("x")
            with lock:
                running -= 1

    assert len(list(heard((Count("") for _ in range(20)), concurrency=3))) == 20
    assert 1 <= most <= 3


def test_silence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samovar.background.TICK_SECONDS", 0.01)
    with closing(heard([Hang("one")])) as told:
        assert next(told) == "one"
        assert next(told) is None


def test_closing_stops_what_runs_and_begins_nothing_more() -> None:
    first, second = Hang("one"), Hang("two")
    with closing(heard([first, second])) as told:
        assert next(told) == "one"
    assert first.stopped.is_set()
    assert not second.stopped.is_set()


def test_an_error_is_raised_to_the_one_who_hears() -> None:
    other = Hang("")
    with pytest.raises(ZeroDivisionError):
        list(heard([Say("one", ZeroDivisionError()), other], concurrency=2))
    assert other.stopped.is_set()
