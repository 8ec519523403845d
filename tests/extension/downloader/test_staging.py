from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from samovar_server.downloader import staging
from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.staging import Provenance, exclusive, publish, require_space, work_folder
from tests.extension.downloader.conftest import Recorder

ORIGIN = Provenance("org/tiny", "a test", {"f": "00"}, "mit", "abc")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "tiny"


def make(work: Path, text: str = "new") -> Path:
    model = work / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(text)
    (model / "config.json").chmod(0o600)
    return model


def test_a_model_moves_to_its_place_with_its_origin(target: Path, reporter: Recorder) -> None:
    with exclusive(target, reporter), work_folder(target) as work:
        assert work.parent == target.parent
        assert work.name.startswith(".")
        publish(make(work), target, ORIGIN)
    assert {path.name for path in target.iterdir()} == {"config.json", "samovar.json"}
    record = json.loads((target / "samovar.json").read_text())
    created = record.pop("created")
    assert record == {
        "name": "org/tiny",
        "source": "a test",
        "sha256": {"f": "00"},
        "license": "mit",
        "revision": "abc",
    }
    assert created.endswith("+00:00")
    assert [path.name for path in target.parent.iterdir() if "partial" in path.name] == []


def test_others_may_read_what_the_umask_lets_them(target: Path, reporter: Recorder) -> None:
    before = os.umask(0o027)
    try:
        with exclusive(target, reporter), work_folder(target) as work:
            assert work.stat().st_mode & 0o077 == 0
            publish(make(work), target, ORIGIN)
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o750
    assert (target / "config.json").stat().st_mode & 0o777 == 0o640


def test_an_incomplete_model_of_ours_is_replaced(target: Path, reporter: Recorder) -> None:
    target.mkdir(parents=True)
    (target / "samovar.json").write_text("{}")
    (target / "left over").write_text("")
    with exclusive(target, reporter), work_folder(target) as work:
        publish(make(work), target, ORIGIN)
    assert {path.name for path in target.iterdir()} == {"config.json", "samovar.json"}


def test_an_empty_folder_is_replaced(target: Path, reporter: Recorder) -> None:
    target.mkdir(parents=True)
    with exclusive(target, reporter), work_folder(target) as work:
        publish(make(work), target, ORIGIN)
    assert (target / "config.json").is_file()


def test_somebody_elses_files_stay(target: Path, reporter: Recorder) -> None:
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("three years")
    with exclusive(target, reporter), work_folder(target) as work:
        model = make(work)
        with pytest.raises(PullFailed, match="move it away and pull again") as caught:
            publish(model, target, ORIGIN)
    assert caught.value.code == "folder_taken"
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]


def test_leftovers_of_this_model_go_and_others_stay(target: Path, reporter: Recorder) -> None:
    (target.parent / ".tiny.partial-old" / "deep").mkdir(parents=True)
    (target.parent / ".other.partial-x").mkdir()
    with exclusive(target, reporter), work_folder(target):
        left = {path.name for path in target.parent.iterdir() if path.is_dir()}
        assert ".tiny.partial-old" not in left
        assert ".other.partial-x" in left


def test_the_work_folder_goes_when_the_work_fails(target: Path, reporter: Recorder) -> None:
    def fail() -> None:
        with exclusive(target, reporter), work_folder(target) as work:
            make(work)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == []


def test_the_second_waits_and_says_so(
    target: Path, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "INTERVAL_SECONDS", 0.01)
    holding, waiting, order = threading.Event(), threading.Event(), []

    class Watched(Recorder):
        def send(self, event: object) -> None:
            waiting.set()

    def first() -> None:
        with exclusive(target, reporter):
            holding.set()
            assert waiting.wait(30)
            order.append("first")

    def second() -> None:
        assert holding.wait(30)
        with exclusive(target, Watched()):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]


def test_space_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=800_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    require_space(tmp_path, 800_000_000)
    with pytest.raises(PullFailed, match=r"has 0\.8 GB free and this needs 1\.3 GB: free some") as caught:
        require_space(tmp_path, 1_300_000_000)
    assert caught.value.code == "disk_full"
