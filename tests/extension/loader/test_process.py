"""Real processes, each a few lines of Python in the place of a worker."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time

import pytest

from samovar_server.errors import InsufficientMemory, LoadFailed, SamovarError
from samovar_server.loader.child import LINE_LIMIT
from samovar_server.loader.failure import describe_exit
from samovar_server.loader.options import LoadProgress
from samovar_server.loader.process import WorkerProcess
from samovar_server.loader.spec import Failed, Imported, Progress, Ready, WorkerEvent, WorkerSpec, event_line

LOG = logging.getLogger("samovar")
SPEC = WorkerSpec("/models/m", "m", "cpu", "float32", "none", None, 1, 1, "s3cret")
READY = Ready(8000, "cpu", "float32", 256, 1, {})
FOREVER = "import threading; threading.Event().wait()"


def says(*events: WorkerEvent) -> str:
    """Code that reads its spec and writes these events."""
    lines = b"".join(event_line(event) for event in events)
    return f"import sys; sys.stdin.readline(); sys.stdout.write({lines.decode()!r}); sys.stdout.flush()"


def spawn(*code: str) -> WorkerProcess:
    return WorkerProcess.spawn([sys.executable, "-c", "\n".join(code)], LOG, {})


async def load(process: WorkerProcess, limit: float = 60.0) -> tuple[Ready, list[LoadProgress]]:
    steps: list[LoadProgress] = []
    return await process.load(SPEC, steps.append, limit), steps


async def load_error(*code: str) -> SamovarError:
    process = spawn(*code)
    with pytest.raises(SamovarError) as caught:
        await load(process)
    await process.stop()
    return caught.value


async def test_a_worker_gets_its_spec_and_tells_how_far_it_is() -> None:
    process = spawn(says(Imported(1.0), Progress("weights", 0.5, 1, 2), READY), FOREVER)
    ready, steps = await load(process)
    assert ready == READY
    assert steps == [
        LoadProgress("importing", 0.0),
        LoadProgress("weights", 0.0),
        LoadProgress("weights", 0.5, 1, 2),
    ]
    assert process.alive()
    await process.stop()
    assert not process.alive()


async def test_the_spec_reaches_the_worker_whole() -> None:
    process = spawn(
        "import json, sys",
        "spec = json.loads(sys.stdin.readline())",
        "print(json.dumps({'event': 'failed', 'code': 'x', 'message': spec['secret']}), flush=True)",
    )
    with pytest.raises(LoadFailed, match="s3cret"):
        await load(process)
    await process.stop()


async def test_log_lines_and_stray_prints_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    process = spawn(
        "import sys",
        "print('warning: odd weights', file=sys.stderr, flush=True)",
        "print('a library prints', flush=True)",
        "print('x' * 300_000, flush=True)",
        says(READY),
        "print('and prints on', flush=True)",
        "sys.stderr.write('last words')",
    )
    await load(process)
    assert await process.exited() == "ended with exit code 0"
    await process.stop()
    for text in ("odd weights", "a library prints", "and prints on", "last words"):
        assert text in caplog.text
    assert max(len(record.getMessage()) for record in caplog.records) < LINE_LIMIT + 100
    assert "s3cret" not in caplog.text


async def test_the_workers_own_reason_is_the_error() -> None:
    error = await load_error(says(Failed("model_load_failed", "the tokenizer is missing")))
    assert (type(error), error.message) == (LoadFailed, "the tokenizer is missing")
    error = await load_error(says(Failed("insufficient_memory", "out of memory")))
    assert type(error) is InsufficientMemory
    error = await load_error(says(Failed("a code of tomorrow", "no")))
    assert type(error) is LoadFailed


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        ("raise SystemExit(3)", LoadFailed, "ended with exit code 3 while it loaded"),
        ("import os; os.kill(os.getpid(), 9)", InsufficientMemory, "memory runs out). Unload other models"),
        ("import os; os.kill(os.getpid(), 15)", LoadFailed, "was ended by SIGTERM while it loaded"),
    ],
)
async def test_a_worker_that_ends_while_it_loads(code: str, kind: type[SamovarError], expected: str) -> None:
    error = await load_error("import sys; sys.stdin.readline()", code)
    assert type(error) is kind
    assert expected in error.message


async def test_a_worker_that_is_gone_before_its_spec() -> None:
    process = spawn("raise SystemExit(4)")
    await process.exited()
    with pytest.raises(LoadFailed, match="exit code 4"):
        await load(process)
    await process.stop()


async def test_a_load_that_hangs_is_given_up() -> None:
    process = spawn(FOREVER)
    with pytest.raises(LoadFailed, match=r"not loaded within 0\.05 s.*c\.Workbench\.load_timeout"):
        await load(process, 0.05)
    await process.stop()
    assert not process.alive()


async def test_a_command_that_does_not_exist() -> None:
    with pytest.raises(LoadFailed, match="No such file"):
        WorkerProcess.spawn(["/does/not/exist"], LOG, {})


START_A_HELPER = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {FOREVER!r}])
print('{{"event": "failed", "code": "pid", "message": "' + str(child.pid) + '"}}', flush=True)
"""


@pytest.mark.parametrize("ending", [FOREVER, "raise SystemExit(1)"])
async def test_what_a_worker_had_started_ends_with_it(ending: str) -> None:
    process = spawn(START_A_HELPER, ending)
    with pytest.raises(LoadFailed) as caught:
        await load(process)
    if ending is FOREVER:
        await process.stop()
    # A helper that crashed workers leave behind holds their pipes open: the end must be seen still.
    await process.exited()
    await gone(int(caught.value.message))
    await process.stop()
    await process.stop()  # again is no error


async def gone(pid: int) -> None:
    """Wait until a process that is not ours is gone; an ended one that waits for its parent counts."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123, ASYNC230
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"process {pid} lives on")


async def test_a_kill_is_noticed() -> None:
    process = spawn(says(READY), FOREVER)
    await load(process)
    os.kill(process.pid, signal.SIGKILL)
    assert "SIGKILL" in await process.exited()
    assert not process.alive()
    await process.stop()


async def test_one_who_gives_up_waiting_for_the_exit_disturbs_nobody() -> None:
    process = spawn(FOREVER)
    waiting = asyncio.create_task(process.exited())
    await asyncio.sleep(0)
    waiting.cancel()
    await process.stop()
    assert "SIGKILL" in await process.exited()


async def test_the_end_is_seen_where_the_system_has_no_process_handles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pidfd_open")  # as on macOS
    process = spawn(says(READY), FOREVER)
    await load(process)
    assert process.alive()
    os.kill(process.pid, signal.SIGTERM)
    assert await process.exited() == "was ended by SIGTERM"
    assert not process.alive()
    await process.stop()


async def test_the_environment_is_the_servers_and_what_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    code = "import os; raise SystemExit(int(os.environ['OURS'] + os.environ['ADDED']))"
    process = WorkerProcess.spawn([sys.executable, "-c", code], LOG, {"ADDED": "2"})
    assert await process.exited() == "ended with exit code 12"
    await process.stop()


@pytest.mark.parametrize(("code", "text"), [(0, "ended with exit code 0"), (-100, "was ended by signal 100")])
def test_an_exit_in_words(code: int, text: str) -> None:
    assert describe_exit(code) == text
