"""Workers that compute at the same time share the cores, and one alone has them all."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from llvmlite import ir

from samovar_server.engine.cores import BUSY_SECONDS, NUMBER, PLACES, Board, Cores, shared_cores
from samovar_server.engine.kernels.emit import Emitter
from samovar_server.engine.kernels.jit import Kernel, has_threads, limit_threads, new_kernel
from samovar_server.engine.runner import Runner
from tests.extension.engine.helpers import Bench
from tests.extension.engine.test_architectures import load_tiny
from tests.extension.engine.test_stack import CONTEXT, SLOTS, history

WORKER = """
import sys
from samovar_server.engine.cores import shared_cores
cores = shared_cores()
cores.begin()
print("computes", flush=True)
sys.stdin.readline()
cores.end()
print("is idle", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """How many threads kernels were to take, in the order in which it was said."""
    told: list[int | None] = []
    monkeypatch.setattr("samovar_server.engine.kernels.jit.limit_threads", told.append)
    return told


def test_each_takes_its_share_as_long_as_others_compute(limits: list[int | None]) -> None:
    places, now = bytearray(PLACES * NUMBER.size), [100.0]
    mine, second, third = (
        Cores(Board(places, place), count, lambda: now[0]) for place, count in ((0, 8), (3, 8), (7, 2))
    )
    mine.begin()
    second.begin()
    mine.begin()
    third.begin()
    mine.begin()
    assert limits == [None, 4, 4, 1, 2]
    second.end()
    mine.begin()
    third.end()
    mine.begin()
    assert limits[5:] == [4, None]


def test_a_worker_that_was_killed_is_forgotten(limits: list[int | None]) -> None:
    places, now = bytearray(PLACES * NUMBER.size), [100.0]
    mine, other = (Cores(Board(places, place), 2, lambda: now[0]) for place in (0, 1))
    other.begin()
    now[0] += BUSY_SECONDS - 0.1
    mine.begin()
    now[0] += 0.2
    mine.begin()
    assert limits == [None, 1, None]


def test_who_shares_with_nobody_limits_nothing(limits: list[int | None]) -> None:
    cores = Cores()
    cores.begin()
    cores.end()
    assert limits == []


@pytest.mark.skipif(not has_threads(), reason="kernels have one thread here")
@pytest.mark.parametrize("most", [None, 1, 2, 1000])
def test_kernels_keep_to_the_limit(most: int | None) -> None:
    work = new_kernel("team")
    e = Emitter(work, 1)
    arguments, thread, threads = work.args
    first = e.build.icmp_signed("==", thread, ir.Constant(thread.type, 0))
    with e.build.if_then(first):
        e.store(threads, e.address(arguments, 0))
    e.finish()
    team = torch.zeros(1, dtype=torch.int64)
    limit_threads(most)
    try:
        Kernel(work).run(team.data_ptr())
    finally:
        limit_threads(None)
    assert team.item() == min(most or 1000, torch.get_num_threads())


@pytest.mark.skipif(not has_threads(), reason="kernels have one thread here")
def test_a_limit_changes_no_bit(tmp_path: Path) -> None:
    model = load_tiny(tmp_path, "llama").model
    limit_threads(1)
    try:
        limited = history(Runner(model, SLOTS, CONTEXT), 40, seed=2)
    finally:
        limit_threads(None)
    assert torch.equal(history(Runner(model, SLOTS, CONTEXT), 40, seed=2), limited)


def test_the_engine_computes_in_its_steps_and_not_between_requests() -> None:
    said: list[str] = []

    class Recorded(Cores):
        def begin(self) -> None:
            said.append("begin")

        def end(self) -> None:
            said.append("end")

    with Bench(cores=Recorded()) as bench:
        request = bench.submit([1, 2], 5)
        assert request.done.wait(10)
    assert said.count("begin") == 5  # the first token comes with the prompt
    assert said[-1] == "end"
    assert "end" not in said[said.index("begin") : said.index("begin") + 5]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers tell each other, in this process and those that it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"samovar-{os.getuid()}"


@pytest.fixture
def worker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that computes."""
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "computes\n"
        yield process
        process.kill()


def count_others(cores: Cores, now: float) -> int:
    assert cores._board is not None
    return cores._board.others(now)


def test_processes_tell_each_other(folder: Path, worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    cores = shared_cores()
    assert count_others(cores, time.monotonic()) == 1
    worker.stdin.write("\n")
    worker.stdin.flush()
    assert worker.stdout.readline() == "is idle\n"
    assert count_others(cores, time.monotonic()) == 0


def test_the_place_of_a_killed_process_is_free_again(folder: Path, worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    cores = shared_cores()  # takes that place, and with it what was written there
    assert count_others(cores, time.monotonic()) == 0
    assert oct((folder).stat().st_mode & 0o777) == "0o700"


def test_a_folder_that_others_may_write_to_is_left_alone(
    folder: Path, limits: list[int | None], caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with caplog.at_level(logging.INFO, "samovar_server.engine.cores"):
        shared_cores().begin()
    assert limits == []
    assert "others may write to it" in caplog.text
    assert not list(folder.iterdir())


def test_more_workers_than_places_take_all_cores(
    folder: Path, worker: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, limits: list[int | None]
) -> None:
    monkeypatch.setattr("samovar_server.engine.cores.PLACES", 1)
    shared_cores().begin()
    assert limits == []
