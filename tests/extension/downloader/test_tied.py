from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TIED = [sys.executable, "-m", "samovar_server.downloader.tied"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    source = "import sys, threading\nprint(__name__, sys.argv[1:], flush=True)\n"
    (tmp_path / "said_and_waits.py").write_text(source + "threading.Event().wait()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "said_and_waits"


def test_it_runs_the_module_and_ends_when_the_pipe_does(module: str) -> None:
    with subprocess.Popen(
        [*TIED, module, "a", "--b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"__main__ ['a', '--b']\n"
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(timeout=30) == 1


def test_it_dies_with_a_parent_that_is_killed(module: str) -> None:
    code = f"""
import subprocess, sys
subprocess.Popen({[*TIED, module]!r}, stdin=subprocess.PIPE, stdout=sys.stdout).wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"__main__ []\n"
        parent.kill()
        assert parent.stdout.read() == b""  # the end of the pipe: the grandchild had it, too


def test_the_exit_status_is_the_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ends.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with subprocess.Popen([*TIED, "ends"], stdin=subprocess.PIPE) as child:
        assert child.wait(timeout=30) == 3
