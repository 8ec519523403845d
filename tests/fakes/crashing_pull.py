"""Kills the bringing of a model at every line it runs, one process each: `crashing_pull.py FOLDER`.

After each death the model must be absent or whole, and bringing it again must work and leave nothing
behind. Prints how many lines were died at.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from samovar_server.downloader import pull, staging
from samovar_server.downloader.progress import Event, Reporter
from samovar_server.downloader.staging import Provenance
from samovar_server.inventory.scan import is_complete

FILES = {"config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}"}
WATCHED = {pull.__file__, staging.__file__, __file__}


class Silent(Reporter):
    def send(self, event: Event) -> None:
        pass


def source(work: Path, reporter: Reporter) -> Provenance:
    model = work / "model"
    model.mkdir()
    for name, text in FILES.items():
        (model / name).write_text(text)
    return Provenance("org/tiny", "a test")


def bring(target: Path) -> None:
    pull.bring("org/tiny", target, [pull.Source(source)], Silent(sys.stderr))


def dies_at(count: int, target: Path) -> bool:
    """Bring the model in a process that is killed at its `count`-th line; False if it ended before."""
    child = os.fork()
    if child == 0:
        lines = itertools.count()

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if frame.f_code.co_filename not in WATCHED:
                return None
            if event == "line" and next(lines) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        bring(target)
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def check(target: Path, before: str) -> int:
    """`before`: what lies at the target's place at first, nothing or an incomplete model of ours."""
    for count in itertools.count():
        shutil.rmtree(target.parent, ignore_errors=True)
        if before == "incomplete":
            target.mkdir(parents=True)
            (target / "samovar.json").write_text("{}")
            (target / "old.txt").write_text("")
        if not dies_at(count, target):
            return count
        if is_complete(target):
            assert {path.name for path in target.iterdir()} == {*FILES, "samovar.json"}, count
        bring(target)
        assert {path.name: path.read_text() for path in target.iterdir() if path.name in FILES} == FILES, (
            count
        )
        left = {path.name for path in target.parent.iterdir()} - {target.name, f".{target.name}.lock"}
        assert left == set(), (count, left)
    raise AssertionError


if __name__ == "__main__":
    setattr(os, "fsync", lambda file: None)  # noqa: B010  a kill is no power cut, and this is many times the rest of the work
    place = Path(sys.argv[1]) / "models" / "tiny"
    print(sum(check(place, before) for before in ("nothing", "incomplete")))
