import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest

from samovar.cli import main
from samovar.cli.parser import make_parser
from tests.fakes.fake_server import MODEL, SECONDS, FakeServer, Load, Reply, error_body
from tests.kernel_helpers.cli.conftest import Start

Samovar = Callable[..., tuple[int, str, str]]
COMMANDS = "pull, downloads, cancel, resume, list, clean, ps, run, stop, doctor, serve, lab, hub"


def test_help_needs_nothing_heavy() -> None:
    code = """
import sys
from samovar.cli import main
main(["--help"])
print({"httpx", "openai", "IPython", "jupyter_core", "asyncio"} & set(sys.modules) or "light")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("light\n")
    for command in COMMANDS.split(", "):
        assert f"\n    {command}" in done.stdout


def test_version(samovar: Samovar) -> None:
    assert samovar("--version") == (0, f"samovar {version('samovar')}\n", "")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == make_parser().format_help()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("lst", "There is no command 'lst'. Did you mean list?"),
        ("xyzzy", f"There is no command 'xyzzy'. There are: {COMMANDS}."),
        ("run --tempreature 1 x", "There is no option --tempreature. Did you mean --temperature?"),
        ("run --seed x y", "--seed: 'x' is not a whole number. samovar run --help lists the options."),
        ("--verison", "There is no option --verison. Did you mean --version?"),
        ("ps demo", "What is 'demo' here? samovar ps --help lists the options."),
        ("pull", "the following arguments are required: MODEL. samovar pull --help lists the options."),
        ("stop", "Name one model to stop, or --all. `samovar ps` lists those in memory."),
        ("stop demo --all", "Name one model to stop, or --all. `samovar ps` lists those in memory."),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], line: str, told: str) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr() == ("", f"samovar: {told}\n")


def test_run_streams_the_answer(samovar: Samovar, fake_server: FakeServer) -> None:
    line = [
        "run",
        "-m",
        "demo",
        "--system",
        "Be brief",
        "--max-tokens",
        "5",
        "--temperature",
        "0",
        "--seed",
        "1",
    ]
    assert samovar(*line, "Say", "hello") == (0, "Hello world!\n", "")
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert body["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Say hello"},
    ]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("demo", 5, 0, 1)


def test_run_tells_how_far_the_load_is_on_the_error_stream(samovar: Samovar, fake_server: FakeServer) -> None:
    fake_server.enqueue(Load([{"phase": "weights", "fraction": f} for f in (0.1, 0.15, 0.5)]))
    code, out, err = samovar("run", "-m", "demo", "x")
    assert (code, out) == (0, "Hello world!\n")
    assert len(err.splitlines()) == 2  # in a log, not at every step
    assert err.startswith("Loading demo")


def test_run_reads_the_prompt_from_standard_input(samovar: Samovar, fake_server: FakeServer) -> None:
    assert samovar("run", typed="Say\nhello\n")[:2] == (0, "Hello world!\n")
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert body["messages"] == [{"role": "user", "content": "Say\nhello\n"}]


def test_run_without_a_prompt(samovar: Samovar, fake_server: FakeServer) -> None:
    assert samovar("run", typed=" \n")[0] == 1


def test_ctrl_c_ends_the_generation(start: Start, fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(hang_after=2))
    with start("run", "x") as process:
        assert fake_server.hanging.wait(SECONDS)
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 5) == b"Hello"  # before the answer is complete
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert fake_server.disconnected.wait(SECONDS)
    assert (process.returncode, err) == (130, "")
    assert "Hello world".endswith(out.strip("\n"))


def test_a_reader_that_leaves_ends_the_generation(start: Start, fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(["a" * 1000] * 10_000))
    with start("run", "x") as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(SECONDS) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert fake_server.disconnected.wait(SECONDS)


def test_what_came_before_the_connection_was_lost_is_there(samovar: Samovar, fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(drop_after=2))
    code, out, err = samovar("run", "x")
    assert (code, out) == (1, "Hello world\n")
    assert err.startswith("samovar: ")
    assert err.count("\n") == 1


def test_a_refusal(samovar: Samovar, fake_server: FakeServer) -> None:
    fake_server.enqueue(
        Load(error=error_body("model_not_found", "No such model. Run: samovar pull x", "model"))
    )
    assert samovar("run", "-m", "x", "y") == (1, "", "samovar: No such model. Run: samovar pull x\n")


def test_no_server(samovar: Samovar) -> None:
    code, out, err = samovar("ps")
    assert (code, out) == (1, "")
    assert err.startswith("samovar: No samovar server was found. Start one with `samovar serve`")


def test_list_ps_and_stop(samovar: Samovar, fake_server: FakeServer) -> None:
    code, out, _ = samovar("list")
    assert (code, out.split()) == (0, ["MODEL", "IN", "MEMORY", MODEL])
    code, out, _ = samovar("ps")
    assert code == 0
    assert out.splitlines()[1].startswith(f"{MODEL}  ready")
    assert samovar("stop", MODEL, "--now") == (0, f"Unloaded {MODEL}\n", "")
    assert samovar("stop", "--all") == (0, "Nothing was in memory.\n", "")
    assert fake_server.asked_at("/v1/models/unload") == [{"model": MODEL, "mode": "now"}]
    assert fake_server.asked_at("/v1/models/unload-all") == [{"mode": "drain"}]
