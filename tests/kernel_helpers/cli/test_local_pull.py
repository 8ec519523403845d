"""`samovar pull` without a server, with a downloader that is a script and shadows the real one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from samovar.cli import local_pull, main
from tests.fakes.fake_server import SECONDS
from tests.kernel_helpers.cli.conftest import Start

Samovar = Callable[..., tuple[int, str, str]]
Fake = Callable[[str], dict[str, str]]

HEAD = """
import json, os, sys, time
def tell(event, **more): print(json.dumps({"event": event, **more}), flush=True)
def progress(done):
    tell("progress", phase="download", bytes_done=done, bytes_total=100, message="from the Hub")
"""


@pytest.fixture
def downloader(tmp_path: Path) -> Fake:
    """Make `body` the downloader; what it gives is the environment to find it in."""

    def write(body: str) -> dict[str, str]:
        package = tmp_path / "site" / "samovar_server" / "downloader"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "pull.py").write_text(HEAD + body)
        for name in ("huggingface_hub", "torch", "transformers"):
            (tmp_path / "site" / f"{name}.py").write_text("raise SystemExit('imported')")
        path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "MARK": str(tmp_path / "mark")}

    return write


def test_progress_and_end(samovar: Samovar, downloader: Fake) -> None:
    environ = downloader(
        "for done in (0, 1, 50, 100): progress(done)\n"
        "tell('done', path='/models/x', name=sys.argv[1], already_there=False)"
    )
    code, out, err = samovar("pull", "demo", environ=environ)
    assert (code, out) == (0, "demo is here: /models/x\n")
    assert [line.split("%")[0].split()[-1] for line in err.splitlines()] == ["0", "50", "100"]
    assert "50 B of 100 B  from the Hub" in err


def test_the_files_that_were_chosen(samovar: Samovar, downloader: Fake) -> None:
    environ = downloader("tell('failed', code='x', message=' '.join(sys.argv[1:])); sys.exit(1)")
    line = ["pull", "org/a", "--include", "*.json", "--include=-x", "--exclude", "b"]
    told = "samovar: --include=*.json --include=-x --exclude=b org/a\n"
    assert samovar(*line, environ=environ) == (1, "", told)


def test_the_second_time(samovar: Samovar, downloader: Fake) -> None:
    environ = downloader("tell('done', path='/models/x', name='demo', already_there=True)")
    assert samovar("pull", "demo", environ=environ) == (0, "demo is already here: /models/x\n", "")


def test_a_failure_is_told(samovar: Samovar, downloader: Fake) -> None:
    environ = downloader("tell('failed', code='disk_full', message='The disk is full.'); sys.exit(1)")
    assert samovar("pull", "demo", environ=environ) == (1, "", "samovar: The disk is full.\n")


def test_an_end_without_a_word_is_told(samovar: Samovar, downloader: Fake) -> None:
    environ = downloader("raise RuntimeError('oops')")
    told = "samovar: The download ended unexpectedly: RuntimeError: oops\n"
    assert samovar("pull", "demo", environ=environ) == (1, "", told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_downloader(start: Start, downloader: Fake, number: signal.Signals) -> None:
    environ = downloader(
        "open(os.environ['MARK'], 'w').write(str(os.getpid())); progress(0); time.sleep(600)"
    )
    with start("pull", "demo", environ=environ) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the progress: it runs
        process.send_signal(number)
        assert process.wait(SECONDS) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(environ["MARK"]).read_text()), 0)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(local_pull, "find_spec", lambda name: None if name == "torch" else object())
    assert main(["pull", "demo"]) == 1
    told = "Bringing models needs torch, which this environment lacks. Run: pip install 'samovar[local]'"
    assert capsys.readouterr().err == f"samovar: {told}\n"
