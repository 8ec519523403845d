import os
import sys

import pytest

from samovar.cli import launch, main


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been started."""
    commands: list[list[str]] = []

    class Replaced(Exception):
        pass

    def execv(path: str, command: list[str]) -> None:
        assert path == command[0]
        commands.append(command)
        raise Replaced

    monkeypatch.setattr(os, "execv", execv)
    return commands


@pytest.mark.parametrize(
    ("name", "module"),
    [("serve", "samovar_server"), ("lab", "jupyterlab"), ("hub", "samovar_server.hub")],
)
def test_jupyter_takes_the_place_of_the_process(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: object())
    with pytest.raises(Exception, match=r"^$"):
        main([name, "--port", "8899", "-y", "--help"])
    assert started == [[sys.executable, "-m", module, "--port", "8899", "-y", "--help"]]


@pytest.mark.parametrize(
    ("name", "missing", "extra"), [("lab", "jupyterlab", "local"), ("hub", "jupyterhub", "hub")]
)
def test_what_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, missing: str, extra: str
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    assert main([name]) == 1
    told = f"{missing} is not installed in this environment. Run: pip install 'samovar[{extra}]'"
    assert capsys.readouterr().err == f"samovar: {told}\n"
