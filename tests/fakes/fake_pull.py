"""The real pull process with another wheel: `python -m tests.fakes.fake_pull BEHAVIOUR ARGS…`.

BEHAVIOUR is `stop:STAGE`, to wait at start, half or made for a line on standard input (or for the end);
`raise:NAME`, to fail half-way with one of ERRORS; or `go`.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from samovar_server.downloader import demo, pull
from samovar_server.downloader.failures import PullFailed
from samovar_server.downloader.progress import Progress, Reporter
from samovar_server.downloader.staging import Provenance

WEIGHTS = b"weights" * 1000

ERRORS = {
    "disk full": OSError(errno.ENOSPC, "No space left on device"),
    "not allowed": PermissionError(errno.EACCES, "Permission denied"),
    "explained": PullFailed("some_code", "Do this."),
    "two lines": ValueError("odd\nvery odd"),
    "silent": KeyError(),
}


def from_wheel(work: Path, reporter: Reporter) -> Provenance:
    kind, _, detail = behaviour.partition(":")

    def stage(name: str) -> None:
        reporter.send(Progress("downloading", name))
        if (kind, detail) == ("stop", name):
            with reporter.phase("converting", "waiting to be told"):
                sys.stdin.readline()

    stage("start")
    print("a library that is chatty on standard output")
    model = work / "model"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as file:
        file.write(WEIGHTS[: len(WEIGHTS) // 2])
        file.flush()
        stage("half")
        if kind == "raise":
            raise ERRORS[detail]
        file.write(WEIGHTS[len(WEIGHTS) // 2 :])
    (model / "config.json").write_text("{}")
    stage("made")
    return Provenance(demo.NAME, "a fake")


if __name__ == "__main__":
    behaviour = sys.argv.pop(1)
    demo.from_wheel = from_wheel
    status = pull.main()
    assert "torch" not in sys.modules
    sys.exit(status)
