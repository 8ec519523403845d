"""A fake server, and an IPython shell of its own for each test."""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from tests.fakes.fake_server import SECONDS, FakeServer
from tests.fakes.fake_workbench import FakeWorkbench

NAMES = (
    "SAMOVAR_URL",
    "SAMOVAR_TOKEN",
    "SAMOVAR_TOKEN_ENV",
    "JPY_PARENT_PID",
    "JUPYTERHUB_SERVICE_URL",
    "JUPYTERHUB_API_TOKEN",
    "JUPYTER_SERVER_URL",
)


def close_session() -> None:
    """Close the connections that a test has left open."""
    from samovar import session

    if session._current is not None:
        session._current[1].close()
    session._current = None


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No server that happens to run on this machine is found."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # However slow the machine is, nothing says that it still waits, unless a test is about that.
    monkeypatch.setattr("samovar.background.TICK_SECONDS", SECONDS)
    monkeypatch.setattr("samovar.defaults._model", None)
    yield
    close_session()


@pytest.fixture
def runtime_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "runtime"
    folder.mkdir()
    return folder


Fake = TypeVar("Fake", bound=FakeServer)


def connected_to(server: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """What a fixture yields whose fake `server` is found through the environment."""
    monkeypatch.setenv("SAMOVAR_URL", server.url)
    monkeypatch.setenv("SAMOVAR_TOKEN", server.token)
    yield server
    close_session()


@pytest.fixture
def fake_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A fake server that is found through the environment."""
    with FakeServer() as server:
        yield from connected_to(server, monkeypatch)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorkbench]:
    """A fake server with all routes that notebooks use, found through the environment."""
    with FakeWorkbench() as server:
        yield from connected_to(server, monkeypatch)


@dataclass
class Front:
    """What a front end would show: the outputs by their display id, in all the states they had."""

    states: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    metadata: list[dict[str, Any]] = field(default_factory=list)

    def texts(self) -> list[str]:
        """All states of all outputs, in order."""
        return [state["text/plain"] for states in self.states.values() for state in states]

    def outputs(self) -> list[str]:
        """What is there at last, one text for each output."""
        return [state["text/plain"] for state in self.final()]

    def final(self) -> list[dict[str, str]]:
        return [states[-1] for states in self.states.values()]


@pytest.fixture
def front(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Front:
    """Makes the shell that of a notebook; what is displayed is noted here."""
    shown = Front()

    def publish(
        self: DisplayPublisher,
        data: dict[str, str],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, str] | None = None,
        update: bool = False,
        **more: Any,
    ) -> None:
        name = (transient or {}).get("display_id", f"output {len(shown.states)}")
        states = shown.states.setdefault(name, [])
        shown.metadata.append(metadata or {})
        assert bool(states) == update
        states.append(data)

    monkeypatch.setattr(DisplayPublisher, "publish", publish)
    monkeypatch.setattr(shell, "kernel", object(), raising=False)
    return shown


@pytest.fixture
def shell(tmp_path: Path, _alone: None) -> Iterator[InteractiveShell]:
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.colors = "nocolor"
    shell.run_line_magic("load_ext", "samovar")
    yield shell
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()
    # Else all of them stay, and clear up when the tests are over: for minutes, after hundreds of tests.
    atexit.unregister(shell.atexit_operations)


@pytest.fixture
def interrupt_when_hanging(fake_server: FakeServer) -> None:
    """Presses Ctrl-C as soon as the server hangs."""

    def press() -> None:
        assert fake_server.hanging.wait(SECONDS)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
