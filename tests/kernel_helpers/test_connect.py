import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samovar.connect import Server, find_server, is_loopback
from samovar.errors import NoServer
from tests.fakes.fake_server import FakeServer

URL = "http://127.0.0.1:8888/v1"


def write(folder: Path, pid: int, url: str = URL, key: str = "t") -> str:
    file = folder / f"samovar-{pid}.json"
    file.write_text(json.dumps({"pid": pid, "url": url, "token": key}))
    return file.name


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_arguments_win() -> None:
    assert find_server(URL, "t", environ={"SAMOVAR_URL": "http://x"}) == Server(URL, "t", "arguments")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8888", "http://127.0.0.1:8888/", "http://127.0.0.1:8888/v1", URL + "/"]
)
def test_the_url_may_or_may_not_name_v1(url: str) -> None:
    assert find_server(environ={"SAMOVAR_URL": url}).url == URL


def test_the_token_may_be_in_a_variable_that_is_named() -> None:
    environ = {"SAMOVAR_URL": URL, "SAMOVAR_TOKEN_ENV": "HUB", "HUB": "secret"}
    assert find_server(environ=environ).token == "secret"
    assert find_server(environ=environ | {"SAMOVAR_TOKEN": "own"}).token == "own"
    assert find_server(environ={"SAMOVAR_URL": URL}).token == ""


@pytest.mark.parametrize("url", ["127.0.0.1:8888", "localhost", "ftp://x/v1", "http://", "http:/x"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(NoServer, match="SAMOVAR_URL is not the URL of a server; it should look like http://"):
        find_server(environ={"SAMOVAR_URL": url})


@pytest.mark.parametrize("url", ["http://x/lab?token=secret", "http://u:secret@x/v1", "http://x/#secret"])
def test_a_url_with_a_token_in_it_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(NoServer, match="belongs into SAMOVAR_TOKEN") as error:
        find_server(environ={"SAMOVAR_URL": url})
    assert "secret" not in str(error.value)


def test_the_server_that_started_the_kernel(runtime_dir: Path) -> None:
    name = write(runtime_dir, 4)
    write(runtime_dir, os.getppid(), "http://127.0.0.1:1/v1")
    assert find_server(environ={"JPY_PARENT_PID": "4"}) == Server(URL, "t", name)


def test_the_parent_process(runtime_dir: Path) -> None:
    name = write(runtime_dir, os.getppid())
    environ = {"JPY_PARENT_PID": "4", "JUPYTERHUB_SERVICE_URL": "http://h/", "JUPYTERHUB_API_TOKEN": "h"}
    assert find_server(environ=environ) == Server(URL, "t", name)


def test_the_hubs_own_server(runtime_dir: Path) -> None:
    environ = {"JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:5/user/ann/", "JUPYTERHUB_API_TOKEN": "h"}
    assert find_server(environ=environ) == Server("http://127.0.0.1:5/user/ann/v1", "h", "JupyterHub")


@pytest.mark.parametrize("content", ["", "[]", '{"url": "x"}', '{"url": "nonsense", "token": "t"}', "\xff"])
def test_a_broken_file_is_as_good_as_none(runtime_dir: Path, content: str) -> None:
    (runtime_dir / "samovar-4.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(NoServer):
        find_server(environ={"JPY_PARENT_PID": "4"})


def test_a_pid_that_is_none_names_no_file(runtime_dir: Path) -> None:
    (runtime_dir.parent / "evil.json").write_text(json.dumps({"url": URL, "token": "t"}))
    with pytest.raises(NoServer):
        find_server(environ={"JPY_PARENT_PID": "/../../evil"})


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no file owners here")
def test_another_users_file_is_not_believed(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(runtime_dir, 4)
    monkeypatch.setattr(os, "getuid", lambda: 123456)
    with pytest.raises(NoServer):
        find_server(environ={"JPY_PARENT_PID": "4"})


def test_without_any_the_next_steps_are_told() -> None:
    with pytest.raises(NoServer, match=r"`samovar serve` or `jupyter lab`.*SAMOVAR_URL and SAMOVAR_TOKEN"):
        find_server(environ={})


def test_the_only_one_alive_is_the_last_resort(runtime_dir: Path) -> None:
    with FakeServer() as alive:
        write(runtime_dir, ended_pid(), alive.url)  # of a server that was killed
        write(runtime_dir, 1, "http://127.0.0.1:9/v1")  # the pid lives, but as something else
        name = write(runtime_dir, os.getpid(), alive.url, "t")
        assert find_server(environ={}) == Server(alive.url, "t", name)


def test_of_several_none_is_chosen_and_no_token_shown(runtime_dir: Path) -> None:
    with (
        FakeServer() as one,
        FakeServer() as other,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as living,
    ):
        write(runtime_dir, os.getpid(), one.url, "secret")
        write(runtime_dir, living.pid, other.url, "secret")
        with pytest.raises(NoServer, match="Several samovar servers are running") as error:
            find_server(environ={})
        assert one.url in str(error.value)
        assert other.url in str(error.value)
        assert "secret" not in str(error.value)
        # In a terminal of one of them, that one is meant.
        environ = {"JUPYTER_SERVER_URL": other.url.removesuffix("v1")}
        assert find_server(environ=environ).url == other.url


def test_the_token_is_not_in_what_a_server_looks_like() -> None:
    assert "secret" not in repr(Server(URL, "secret", "arguments"))


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        (URL, True),
        ("http://localhost/v1", True),
        ("http://[::1]:8/v1", True),
        ("http://example.org/v1", False),
        ("http://10.0.0.1/v1", False),
    ],
)
def test_loopback(url: str, answer: bool) -> None:
    assert is_loopback(url) is answer
