from collections import deque

import pytest
from IPython.core.interactiveshell import InteractiveShell

from samovar.defaults import model_in_use
from samovar.errors import Interrupted, SamovarError
from tests.fakes.fake_server import MODEL, FakeServer, Load, error_body
from tests.fakes.fake_workbench import JOB, FakeWorkbench
from tests.kernel_helpers.conftest import Front


def samovar(shell: InteractiveShell, line: str, capsys: pytest.CaptureFixture[str]) -> str:
    shell.run_line_magic("samovar", line)
    return capsys.readouterr().out


@pytest.mark.parametrize("line", ["", "status"])
def test_status_says_where_the_server_is_but_not_the_token(
    shell: InteractiveShell, fake_server: FakeServer, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    out = samovar(shell, line, capsys)
    assert out.startswith(f"{fake_server.url} (found through SAMOVAR_URL)\n")
    assert MODEL in out
    assert fake_server.token not in out


def test_ps_and_list(
    shell: InteractiveShell, fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    head, row = samovar(shell, "ps", capsys).splitlines()
    assert head.split() == ["MODEL", "STATE", "DEVICE", "TYPE", "MEMORY", "REQUESTS", "LEAVES", "MEMORY"]
    assert row.split()[:6] == [MODEL, "ready", "cpu", "float32", "538", "MB"]
    assert MODEL in samovar(shell, "list", capsys)


def test_load_and_unload(
    shell: InteractiveShell, fake_server: FakeServer, front: Front, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_server.enqueue(Load([{"phase": "warmup", "fraction": 0.9}]))
    out = samovar(shell, "load demo --ttl 60 --pin", capsys)
    assert out == (
        f"{MODEL} is in memory: 538 MB on cpu (float32); its load took: import 0.1 s, weights 1.2 s\n"
    )
    assert "warming up" in front.texts()[0]
    assert front.final() == [{"text/plain": "", "text/html": ""}]
    (body,) = fake_server.asked_at("/v1/models/load")
    assert body == {"model": "demo", "ttl": 60, "pin": True, "stream": True}
    assert samovar(shell, f"unload {MODEL} --now", capsys) == f"Unloaded {MODEL}\n"
    assert samovar(shell, "ps", capsys) == "No model is in memory. The first request loads one.\n"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sttaus", "%samovar has no 'sttaus'. Did you mean status?"),
        (
            "xyzzy",
            "%samovar has no 'xyzzy'. It has: status, use, list, ps, load, unload, pull, cancel, doctor.",
        ),
        (
            "load demo --dtype flaot32",
            "--dtype: 'flaot32' is none of auto, float32, bfloat16, float16. Did you",
        ),
        ("unload", "Name one model to unload, or --all. %samovar ps lists those in memory."),
        ("use", "Name the model to use, or --default for the server's own."),
        ("load", "the following arguments are required: model. %samovar load --help lists the options."),
        ("load demo --tll 3", "There is no option --tll. Did you mean --ttl?"),
        ("ps demo", "What is 'demo' here? %samovar ps --help lists the options."),
    ],
)
def test_wrong_commands(shell: InteractiveShell, fake_server: FakeServer, line: str, told: str) -> None:
    with pytest.raises(SamovarError) as error:
        shell.run_line_magic("samovar", line)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("help", "%samovar unload NAME"),
        ("-h", "%samovar unload NAME"),
        ("load --help", "--pin"),
        ("ps -h", "usage"),
    ],
)
def test_help(
    shell: InteractiveShell, fake_server: FakeServer, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    assert told in samovar(shell, line, capsys)
    assert not fake_server.asked


def test_an_unknown_model(shell: InteractiveShell, fake_server: FakeServer) -> None:
    fake_server.models = ["demo"]
    fake_server.enqueue(Load(error=error_body("model_not_found", "No such model.", "model")))
    with pytest.raises(SamovarError, match=r"No such model\. Did you mean demo\?"):
        shell.run_line_magic("samovar", "load dmo")


def test_unload_ext_takes_the_magics_away(shell: InteractiveShell) -> None:
    shell.run_line_magic("unload_ext", "samovar")
    assert shell.find_cell_magic("generate") is None
    assert shell.find_line_magic("samovar") is None


def test_use(
    shell: InteractiveShell, server: FakeWorkbench, front: Front, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samovar(shell, f"use {MODEL}", capsys) == f"Using {MODEL}.\n"
    assert f"names no model: {MODEL}\n" in samovar(shell, "status", capsys)
    shell.run_cell("%%generate\nx").raise_error()
    samovar(shell, "use --default", capsys)
    shell.run_cell("%%generate\nx").raise_error()
    assert [body.get("model") for body in server.asked_at("/v1/chat/completions")] == [MODEL, None]


def test_a_model_that_is_not_there_cannot_be_used(shell: InteractiveShell, server: FakeWorkbench) -> None:
    server.missing = {"SmolLM2-135M-Instuct"}
    with pytest.raises(SamovarError, match=rf"No such model\. Did you mean {MODEL}\?"):
        shell.run_line_magic("samovar", "use SmolLM2-135M-Instuct")
    assert model_in_use() is None


DONE = {"status": "completed", "path": "/models/org/other"}


def test_pull_shows_how_far_it_is(
    shell: InteractiveShell,
    server: FakeWorkbench,
    front: Front,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.steps = deque([{}, DONE])
    out = samovar(shell, "pull org/other --quantization Q4_K_M", capsys)
    assert out == "org/other is here: /models/org/other\n"
    assert front.texts()[1] == (
        "Pulling org/other  ██████░░░░░░░░░░░░░░░░░░   25%  250 MB of 1.0 GB  5.0 MB/s  2 min 30 s left"
    )
    assert front.texts()[-1] == ""
    (body,) = [body for body in server.asked_at("/v1/models/download") if body]
    assert body == {"url": "org/other", "quantization": "Q4_K_M"}


@pytest.mark.parametrize(("is_ours", "told"), [(True, "pull again to go on"), (False, "begun elsewhere")])
def test_interrupting_a_pull_cancels_what_was_begun_here(
    shell: InteractiveShell,
    server: FakeWorkbench,
    monkeypatch: pytest.MonkeyPatch,
    is_ours: bool,
    told: str,
) -> None:
    def press(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samovar.downloading.time.sleep", press)
    server.jobs = [] if is_ours else [dict(JOB)]
    with pytest.raises(Interrupted, match=told):
        shell.run_line_magic("samovar", "pull org/other")
    assert cancelled(server) == ["j1"] * is_ours


def test_cancel(shell: InteractiveShell, server: FakeWorkbench, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SamovarError, match="No download is running"):
        shell.run_line_magic("samovar", "cancel")
    server.jobs = [dict(JOB)]
    with pytest.raises(SamovarError, match=r"no download 'org/othr'\. Did you mean org/other\?"):
        shell.run_line_magic("samovar", "cancel org/othr")
    assert samovar(shell, "cancel", capsys).startswith("Cancelled org/other; what has come stays")
    server.jobs.append(JOB | {"job_id": "j2", "url": "org/more"})
    with pytest.raises(SamovarError, match="Say which download to cancel: org/other, org/more"):
        shell.run_line_magic("samovar", "cancel")
    assert cancelled(server) == ["j1"]


def cancelled(server: FakeWorkbench) -> list[str]:
    return [asked.path.rpartition("/")[2] for asked in server.asked if asked.method == "DELETE"]
