"""The worker process of an engine with a command of its own: `python -m samovar_server.workers.command`.

Starts the command, passes its log on and reads from it how far the load is, waits until it is healthy,
and ends with it. The command runs in this process's group, and the group ends as a whole: when the server
unloads the model, when the server is gone, and when the command ends.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from http.client import HTTPConnection, HTTPException
from typing import Any

from samovar_server.errors import LoadFailed
from samovar_server.loader.failure import from_exit, from_words
from samovar_server.loader.spec import CommandSpec, Imported, Progress, Ready, parse_spec
from samovar_server.workers.pipes import Pipe, watch_stdin

POLL_SECONDS = 0.1
ANSWER_SECONDS = 5.0
KEPT_LINES = 200
"""Of the log, to find the reason of a failure in."""

_PERCENT = re.compile(r"checkpoint shards:\s+(\d{1,3})%")
_ERROR = re.compile(r"\b[A-Z]\w*(?:Error|Exception)\b: .+|\berror: .+")


class Log:
    """What the command says: passed on to stderr as it comes, its end kept."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: Pipe) -> None:
        self._process = process
        self._pipe = pipe
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._thread = threading.Thread(target=self._read, name="log", daemon=True)
        self._thread.start()

    def reason(self) -> str | None:
        """The last error in the log, once it has ended."""
        self._thread.join(ANSWER_SECONDS)
        found = [match[0] for line in self._lines if (match := _ERROR.search(line))]
        return found[-1] if found else None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            self._lines.append(line)
            sys.stderr.write(f"{line}\n")
            if match := _PERCENT.search(line):
                self._pipe.send(Progress("weights", min(int(match[1]), 100) / 100))


def main() -> None:
    """Run the worker."""
    pipe = Pipe()
    specs = watch_stdin(end_group)
    pipe.send(Imported(0.0))
    spec = parse_spec(specs.get(), CommandSpec)
    began = time.monotonic()
    port = _free_port()
    arguments = [word.replace("{port}", str(port)) for word in spec.arguments]
    environment = {**os.environ, **spec.environment, spec.key_variable: spec.secret}
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    except OSError as error:
        pipe.fail(LoadFailed(f"{arguments[0]} cannot be started ({error.strerror})."))
    log = Log(process, pipe)
    while not _ask(port, "/health", spec.secret)[0]:
        if (code := process.poll()) is not None:
            words = log.reason()
            pipe.fail(from_words(spec.model_name, words) if words else from_exit(spec.model_name, code))
        time.sleep(POLL_SECONDS)
    pipe.send(
        Ready(
            port=port,
            device=spec.device,
            dtype=spec.dtype,
            context_length=_window(port, spec),
            memory_bytes=spec.memory_bytes,
            load_seconds={"weights": time.monotonic() - began},
        )
    )
    process.wait()
    end_group()


def end_group() -> None:
    """End this process and all that it started, at once."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _window(port: int, spec: CommandSpec) -> int:
    """The context length as the engine tells it, in the field that vLLM adds to its models."""
    _, answer = _ask(port, "/v1/models", spec.secret)
    try:
        return int(answer["data"][0]["max_model_len"])
    except (KeyError, IndexError, TypeError, ValueError):
        return spec.context_length or 1


def _ask(port: int, path: str, key: str) -> tuple[bool, Any]:
    """Whether the engine answers well, and what, if it is JSON."""
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException):
        return False, None
    finally:
        connection.close()
    try:
        return answer.status == 200, json.loads(body)
    except ValueError:
        return answer.status == 200, None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
