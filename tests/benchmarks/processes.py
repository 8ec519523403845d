"""Servers as processes of their own: started, waited for, ended with all that they started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 400.0
"""vLLM compiles its model first."""
STOP_SECONDS = 10.0


class NotHereError(Exception):
    """This server cannot be measured here; the text says why, and what to install or to give."""


def has_modules(python: Path, *modules: str) -> bool:
    """Whether the environment of `python` has all these modules, told without importing them."""
    code = "import sys, importlib.util as u; sys.exit(not all(u.find_spec(name) for name in sys.argv[1:]))"
    return subprocess.run([python, "-c", code, *modules]).returncode == 0


def require_modules(python: Path, *modules: str, install: str, option: str) -> None:
    """Raise NotHereError unless the environment of `python` has all these modules."""
    if not python.exists() or not has_modules(python, *modules):
        raise NotHereError(
            f"no {' or no '.join(modules)} in the Python that {option} names: pip install {install} there"
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    command: Sequence[str | Path], health: str, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run `command` for as long as the context is open, from when `health` answers 200."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_healthy(process, health, log)
        yield
    finally:
        end(process)


def wait_until_healthy(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{last_lines(log)}"
        assert time.monotonic() < deadline, f"the server did not start:\n{last_lines(log)}"
        try:
            if httpx.get(health, trust_env=False, timeout=5.0).status_code == 200:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.2)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its session: kindly, then surely."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)


def last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
