import pytest
from IPython.core.interactiveshell import InteractiveShell

from samovar.errors import SamovarError
from tests.fakes.fake_server import MODEL, FakeServer, Load, error_body
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


def test_ps_and_models(
    shell: InteractiveShell, fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    head, row = samovar(shell, "ps", capsys).splitlines()
    assert head.split() == ["MODEL", "STATE", "DEVICE", "TYPE", "MEMORY", "REQUESTS", "LEAVES", "MEMORY"]
    assert row.split()[:6] == [MODEL, "ready", "cpu", "float32", "538", "MB"]
    assert MODEL in samovar(shell, "models", capsys)


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
        ("list", "%samovar has no 'list'. It has: status, ps, models, load, unload."),
        ("load", "the following arguments are required: model. %samovar load --help lists the options."),
        ("load demo --tll 3", "There is no option --tll. Did you mean --ttl?"),
        ("ps demo", "What is 'demo' here? %samovar ps --help lists the options."),
    ],
)
def test_wrong_commands(shell: InteractiveShell, fake_server: FakeServer, line: str, told: str) -> None:
    with pytest.raises(SamovarError) as error:
        shell.run_line_magic("samovar", line)
    assert str(error.value) == told


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
