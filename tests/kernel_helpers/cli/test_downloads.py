"""Downloads and disk space from a terminal, with a server that is a fake."""

from __future__ import annotations

import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from samovar.cli import main
from tests.fakes.fake_server import SECONDS
from tests.fakes.fake_workbench import JOB, FakeWorkbench
from tests.kernel_helpers.cli.conftest import Start
from tests.kernel_helpers.conftest import connected_to

Samovar = Callable[..., tuple[int, str, str]]

DONE = {"status": "completed", "bytes_done": 10**9, "message": "is here", "path": "/models/other"}
OLD = JOB | {"job_id": "abcdef0123456789", "url": "org/old", "status": "failed", "error": "The disk is full."}
LEFT = {"kind": "partial", "path": "/hub/x", "model": "org/old", "size_bytes": 2_000_000, "modified": 1.0}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorkbench]:
    with FakeWorkbench(jobs=[JOB | {"job_id": "0123456789abcdef"}, OLD]) as server:
        yield from connected_to(server, monkeypatch)


def cancelled(fake: FakeWorkbench) -> list[str]:
    return [asked.path.rpartition("/")[2] for asked in fake.asked if asked.method == "DELETE"]


def test_pull_is_a_download_of_the_server_that_runs(samovar: Samovar, fake: FakeWorkbench) -> None:
    fake.steps = deque([{}, DONE])
    line = ["pull", "org/other", "--include", "*.json", "--exclude", "b*", "--exclude", "c*"]
    code, out, err = samovar(*line)
    assert (code, out) == (0, "org/other is here: /models/other\n")
    assert "25%  250 MB of 1.0 GB  5.0 MB/s  2 min 30 s left" in err
    (asked,) = [body for body in fake.asked_at("/v1/models/download") if body]
    assert asked == {"url": "org/other", "include": ["*.json"], "exclude": ["b*", "c*"]}


def test_what_fails_is_told(samovar: Samovar, fake: FakeWorkbench) -> None:
    fake.steps = deque([{"status": "failed", "error": "org/other is gated: accept its terms."}])
    code, out, err = samovar("pull", "org/other")
    assert (code, out) == (1, "")
    assert err.endswith("samovar: org/other is gated: accept its terms.\n")


def interrupted(process: subprocess.Popen[str]) -> str:
    """What it says after Ctrl-C, once it shows progress."""
    assert process.stderr is not None
    while "25%" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    return err


def test_ctrl_c_cancels_what_was_begun_here(start: Start, fake: FakeWorkbench) -> None:
    fake.steps = deque([{}])
    with start("pull", "org/other") as process:
        assert "Go on with: samovar resume j1" in interrupted(process)
    assert cancelled(fake) == ["j1"]


def test_ctrl_c_leaves_what_was_begun_elsewhere(start: Start, fake: FakeWorkbench) -> None:
    fake.jobs, fake.steps = [dict(JOB)], deque([{}])
    with start("pull", "org/other") as process:
        assert "goes on. End it with: samovar cancel j1" in interrupted(process)
    assert cancelled(fake) == []


def test_downloads_are_listed_with_how_far_they_are(
    fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["downloads"]) == 0
    head, first, second, why = capsys.readouterr().out.splitlines()
    assert head.split() == ["JOB", "MODEL", "STATUS", "DONE", "BYTES", "RATE", "LEFT"]
    assert first.startswith("01234567  org/other  downloading  25%   250 MB of 1.0 GB  5.0 MB/s  2 min 30 s")
    assert second.startswith("abcdef01  org/old    failed")
    assert why == "abcdef01: The disk is full."
    fake.jobs = []
    assert main(["downloads"]) == 0
    assert capsys.readouterr().out == "There were no downloads. Begin one: samovar pull demo\n"


@pytest.mark.parametrize("name", ["0123456789abcdef", "0123", "org/other"])
def test_cancel_by_the_beginning_of_an_id_or_by_the_model(
    name: str, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cancel", name]) == 0
    assert cancelled(fake) == ["0123456789abcdef"]
    assert "samovar resume 01234567" in capsys.readouterr().out


def test_resume_goes_on_and_shows_it(fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]) -> None:
    fake.steps = deque([DONE])
    assert main(["resume", "org/old"]) == 0
    assert [asked.path for asked in fake.asked if asked.method == "POST"] == [
        "/v1/models/download/abcdef0123456789/resume"
    ]
    assert capsys.readouterr().out == "org/other is here: /models/other\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "There is no download 'nowhere'. `samovar downloads` lists those there are."),
        ("", "2 downloads begin with '': write more of the one you mean."),
    ],
)
def test_a_download_that_is_not_there(
    name: str, told: str, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cancel", name]) == 1
    assert capsys.readouterr().err == f"samovar: {told}\n"
    assert cancelled(fake) == []


def dry_runs(fake: FakeWorkbench) -> list[Any]:
    return [body["dry_run"] for body in fake.asked_at("/v1/models/clean")]


def test_clean_shows_what_would_go_and_asks(samovar: Samovar, fake: FakeWorkbench) -> None:
    fake.leftovers = [dict(LEFT)]
    for typed in ("n\n", ""):
        code, out, err = samovar("clean", typed=typed)
        assert (code, dry_runs(fake)[-1]) == (0, True)
        assert "part of a download  org/old  2.0 MB\nRemove them and free 2.0 MB? [y/N] " in out
        assert out.endswith("Nothing was removed.\n")
        assert err == "1 more are in use by downloads and stay.\n"
    code, out, _ = samovar("clean", typed="y\n")
    assert (code, out.splitlines()[-1]) == (0, "Remove them and free 2.0 MB? [y/N] 2.0 MB are free again.")
    assert samovar("clean")[:2] == (0, "There is nothing to clean.\n")


def test_clean_without_a_question(fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]) -> None:
    fake.leftovers = [dict(LEFT)]
    assert main(["clean", "--yes", "--older-than", "2.5"]) == 0
    assert capsys.readouterr().out.endswith("org/old  2.0 MB\n2.0 MB are free again.\n")
    assert [body["older_than_days"] for body in fake.asked_at("/v1/models/clean")] == [2.5, 2.5]
    assert dry_runs(fake) == [True, False]
