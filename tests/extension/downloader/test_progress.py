from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from samovar_server.downloader import progress
from samovar_server.downloader.progress import Done, Failed, Progress, bytes_below
from tests.extension.downloader.conftest import Recorder


@pytest.fixture
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.001)


def test_an_event_is_a_line_of_json(reporter: Recorder) -> None:
    reporter.send(Progress("downloading", "a\nb — 茶", 1, 2))
    reporter.send(Done("org/name", "/models/name", already_there=False, revision="abc"))
    reporter.send(Failed("disk_full", "free some"))
    assert reporter.stream.getvalue().count("\n") == 3
    assert reporter.events == [
        {
            "event": "progress",
            "phase": "downloading",
            "message": "a\nb — 茶",
            "bytes_done": 1,
            "bytes_total": 2,
            "bytes_fetched": 0,
            "files_done": 0,
            "files": [],
        },
        {
            "event": "done",
            "name": "org/name",
            "path": "/models/name",
            "already_there": False,
            "revision": "abc",
        },
        {"event": "failed", "code": "disk_full", "message": "free some"},
    ]


@pytest.mark.usefixtures("quick_ticks")
def test_a_phase_tells_how_far_it_is_until_it_ends(reporter: Recorder) -> None:
    told = threading.Event()

    def sizes() -> Iterator[int]:
        yield from (0, 40, 80)
        told.set()
        while True:
            yield 250  # more than there is: the total was only known about

    size = sizes()
    with reporter.phase("downloading", "going", lambda: next(size), 100):
        assert told.wait(30)
    done = [event["bytes_done"] for event in reporter.events]
    assert done[:3] == [0, 40, 80]
    assert set(done[3:]) == {100}
    count = len(reporter.events)
    with reporter.phase("saving", "next"):
        pass
    assert len(reporter.events) == count + 1


@pytest.mark.usefixtures("quick_ticks")
def test_a_phase_that_fails_does_not_claim_to_be_done(reporter: Recorder) -> None:
    with pytest.raises(ZeroDivisionError), reporter.phase("downloading", "going", lambda: 40, 100):
        raise ZeroDivisionError
    assert {event["bytes_done"] for event in reporter.events} == {40}
    assert not any(thread.name.startswith("progress") for thread in threading.enumerate())


def test_threads_do_not_mix_their_lines(reporter: Recorder) -> None:
    def send(name: str) -> None:
        for _ in range(200):
            reporter.send(Progress("downloading", name * 50))

    threads = [threading.Thread(target=send, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event["message"][0] for event in reporter.events) == sorted("abcd" * 200)


def test_bytes_below_folders_that_change(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "a" / "b" / "two").write_bytes(b"123")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "one")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert bytes_below(tmp_path) == 8
    assert bytes_below(tmp_path / "a" / "b", tmp_path / "none") == 3
