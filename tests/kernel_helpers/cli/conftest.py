"""The command line as a process of its own, as a terminal runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

SAMOVAR = [sys.executable, "-c", "import sys; from samovar.cli import main; sys.exit(main())"]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start `samovar` with arguments; its streams are pipes."""

    def start(
        *arguments: str, environ: Mapping[str, str] | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environ = {**os.environ, **(environ or {})}
        return subprocess.Popen([*SAMOVAR, *arguments], text=True, env=environ, **(streams | more))

    return start


@pytest.fixture
def samovar(start: Start) -> Callable[..., tuple[int, str, str]]:
    """Run `samovar` to its end: exit code, output, errors."""

    def samovar(*arguments: str, typed: str | None = None, **more: Any) -> tuple[int, str, str]:
        if typed is not None:
            more["stdin"] = subprocess.PIPE
        with start(*arguments, **more) as process:
            out, err = process.communicate(typed, timeout=60)
        return process.returncode, out, err

    return samovar
