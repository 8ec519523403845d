"""A worker process of one's own, without the server around it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from samovar_server.loader.spec import WorkerSpec

SECRET = "secret"


@contextmanager
def worker(model: Path) -> Iterator[str]:
    """The URL, with /v1, at which a worker serves `model`; it ends on leaving."""
    spec = WorkerSpec(str(model), "demo", "cpu", "float32", "none", None, 16, 64, SECRET)
    command = [sys.executable, "-m", "samovar_server.engine.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(spec)).encode() + b"\n")
        process.stdin.flush()
        events = (json.loads(line) for line in process.stdout)
        ready = next(event for event in events if event["event"] in ("ready", "failed"))
        assert ready["event"] == "ready", ready
        yield f"http://127.0.0.1:{ready['port']}/v1"
        process.stdin.close()  # its sign that nobody needs it any more
        process.wait(30)
