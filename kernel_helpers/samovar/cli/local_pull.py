"""`samovar pull` where no server runs: the downloader, in a process that can be stopped, and its progress."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import IO, Any, NoReturn

from samovar.errors import SamovarError
from samovar.progress import ProgressLine, pulling

COMMAND = (sys.executable, "-m", "samovar_server.downloader.pull")
NEEDS = ("samovar_server", "huggingface_hub", "torch", "transformers")
STOP_SECONDS = 5.0
"""How long a downloader may take to clean up before it is killed."""


def pull(model: str, choice: Sequence[str] = ()) -> int:
    """Bring `model` to this machine; `choice` are the downloader's options that name its files."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise SamovarError(
            f"Bringing models needs {', '.join(missing)}, which this environment lacks. "
            "Run: pip install 'samovar[local]'"
        )
    line = ProgressLine()
    with tempfile.TemporaryFile() as errors, _downloader([*COMMAND, *choice, model], errors) as events:
        try:
            done = _follow(events, line, model)
        finally:
            line.close()
        if done is None:
            raise SamovarError(f"The download ended unexpectedly: {_last_line(errors)}")
    there = "is already here" if done["already_there"] else "is here"
    sys.stdout.write(f"{done['name']} {there}: {done['path']}\n")
    return 0


def _follow(events: Iterator[dict[str, Any]], line: ProgressLine, model: str) -> dict[str, Any] | None:
    """Show the progress; the last event, or None when there was none."""
    for event in events:
        match event["event"]:
            case "progress":
                done, total = event.get("bytes_done") or 0, event.get("bytes_total") or 0
                fraction = done / total if total else 0.0
                message = event.get("message") or event["phase"]
                line.show(pulling(model, done, total, message), phase=event["phase"], fraction=fraction)
            case "failed":
                raise SamovarError(event["message"])
            case "done":
                return event
    return None


@contextmanager
def _downloader(command: Sequence[str], errors: IO[bytes]) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of the downloader, which ends when the context does, whatever ends that."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C reaches this process only, which then ends the other one cleanly
    )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        assert process.stdout is not None
        yield (json.loads(text) for text in process.stdout)
        process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").split("\n")
    return next((text for text in reversed(lines) if text.strip()), "it said nothing")
