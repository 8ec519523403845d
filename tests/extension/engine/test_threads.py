"""How long threads wait for each other: briefly, unless whoever runs the server has said how long."""

from __future__ import annotations

import subprocess
import sys

import pytest

from samovar_server.engine.threads import FEW_TURNS, POLICY, TURNS, wait_briefly


def test_by_itself_it_is_briefly() -> None:
    environ = {"HOME": "/home/ada"}
    wait_briefly(environ)
    assert environ == {"HOME": "/home/ada", TURNS: FEW_TURNS}


@pytest.mark.parametrize("said", [{TURNS: "7"}, {POLICY: "ACTIVE"}])
def test_what_was_said_before_holds(said: dict[str, str]) -> None:
    environ = dict(said)
    wait_briefly(environ)
    assert environ == said


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GCC's OpenMP on Linux")
def test_torch_hears_of_it() -> None:
    """It must be said before torch is imported, and OpenMP reads the process's own environment."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os\n"
            "from samovar_server.engine.threads import wait_briefly\n"
            "wait_briefly(os.environ)\n"
            "import torch",
        ],
        env={"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f"GOMP_SPINCOUNT = '{FEW_TURNS}'" in told
