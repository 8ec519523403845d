import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from samovar.cli import main
from samovar.doctor import Check, checks, extension
from tests.fakes.fake_server import FakeServer
from tests.fakes.fake_workbench import CPU, DIAGNOSIS, GB, FakeWorkbench

FOLDER = DIAGNOSIS["folders"][0]


@pytest.fixture
def well(server: FakeWorkbench) -> FakeWorkbench:
    server.versions = {"samovar": version("samovar"), "python": "3.11.9"}
    return server


def test_all_is_well(well: FakeWorkbench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\nAll is well.\n")
    assert f"✓ server         {well.url}, found through SAMOVAR_URL\n" in out
    assert "✓ disk           50 GB free for models\n" in out
    assert well.token not in out
    assert "✗" not in out


def test_in_a_notebook(
    shell: InteractiveShell, well: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_line_magic("samovar", "doctor")
    assert "All is well." in capsys.readouterr().out


def wrong() -> list[Check]:
    return [check for check in checks() if check.fix is not None]


@pytest.mark.parametrize(
    ("change", "name", "fix"),
    [
        ({"engine_problem": "torch is not installed. Run: pip install x"}, "engine", "pip install x"),
        ({"spare": "ended"}, "spare worker", "The server's log says why"),
        ({"default_model_here": False}, "default model", "Run: samovar pull demo"),
        ({"folders": [FOLDER | {"writable": False}]}, "model folder", "Give it the right"),
        ({"folders": [FOLDER | {"free_bytes": GB}]}, "disk", "samovar clean"),
        (
            {"folders": [FOLDER, {"path": "/gone", "exists": False}]},
            "model folder",
            "Make it, or take it out",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    well: FakeWorkbench,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    name: str,
    fix: str,
) -> None:
    well.diagnosis |= change
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("✗")]
    assert lines[place].startswith(f"✗ {name}")
    assert lines[place + 1].startswith("  → ")
    assert fix in lines[place + 1]
    assert "1 of" in lines[-1]


@pytest.mark.parametrize("state", ["off", "none", "importing"])
def test_a_spare_worker_that_is_not_there_is_nothing_to_mend(well: FakeWorkbench, state: str) -> None:
    well.diagnosis["spare"] = state
    assert wrong() == []


def test_little_memory(well: FakeWorkbench) -> None:
    well.memory = [CPU | {"free_bytes": GB // 2, "used_bytes": 0}]
    assert [check.name for check in wrong()] == ["memory"]
    well.memory = [CPU | {"free_bytes": GB // 2, "used_bytes": GB}]  # models of samovar's own have it
    assert wrong() == []


def test_another_version(well: FakeWorkbench) -> None:
    well.versions["samovar"] = "0.0.1"
    assert [check.name for check in wrong()] == ["versions"]


def test_a_token_that_the_server_does_not_accept(
    well: FakeWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMOVAR_TOKEN", "wrong-token")
    (check,) = wrong()
    assert check.name == "token"
    assert "wrong-token" not in str(check)


def test_a_server_without_samovar(well: FakeWorkbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMOVAR_URL", well.url.replace("/v1", "/elsewhere/v1"))
    (check,) = wrong()
    assert check.name == "extension"
    assert "jupyter server extension enable samovar_server" in str(check.fix)


def test_a_server_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as gone:
        monkeypatch.setenv("SAMOVAR_URL", gone.url)
    (check,) = wrong()
    assert check.name == "answer"
    assert check.fix is not None
    assert "samovar serve" in check.fix


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "✗ server         none was found\n  → No samovar server was found. Start one with" in out
    assert "extension" in out


@pytest.mark.parametrize(
    ("own", "system", "found"),
    [
        (None, True, "enabled"),
        (False, True, "disabled in Jupyter's settings"),
        (True, False, "enabled"),
        (None, None, "not enabled in Jupyter's settings"),
    ],
)
def test_the_extension(tmp_path: Path, own: bool | None, system: bool | None, found: str) -> None:
    for name, enabled in (("own", own), ("system", system)):
        folder = tmp_path / name / "jupyter_server_config.d"
        folder.mkdir(parents=True)
        if enabled is not None:
            settings = {"ServerApp": {"jpserver_extensions": {"samovar_server": enabled}}}
            (folder / "samovar_server.json").write_text(json.dumps(settings))
    (check,) = extension(lambda: [str(tmp_path / "own"), str(tmp_path / "system")])
    assert check.found == found
    assert (check.fix is None) == (found == "enabled")
