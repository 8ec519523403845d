"""The file by which kernels find their server."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from samovar_server.discovery import DiscoveryFile, local_v1_url


@pytest.fixture
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


def test_only_its_owner_reads_it(runtime_dir: Path) -> None:
    file = DiscoveryFile()
    file.write("http://127.0.0.1:8888/v1", "token")
    assert file.path == runtime_dir / f"samovar-{os.getpid()}.json"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    told = {"pid": os.getpid(), "url": "http://127.0.0.1:8888/v1", "token": "token"}
    assert json.loads(file.path.read_text()) == told
    file.remove()


def test_it_goes_once_and_for_all(runtime_dir: Path) -> None:
    file = DiscoveryFile()
    file.remove()
    file.write("http://127.0.0.1:8888/v1", "token")
    file.remove()
    file.remove()
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("server_url", "listens_on", "url"),
    [
        ("http://localhost:8888/", "localhost", "http://localhost:8888/v1"),
        ("http://localhost:8888/a%40b/", "localhost", "http://localhost:8888/a%40b/v1"),
        ("http://machine.example:8888/", "0.0.0.0", "http://127.0.0.1:8888/v1"),  # noqa: S104
        ("http://machine.example:8888/", "::", "http://[::1]:8888/v1"),
        ("http://localhost:8888/", "", "http://localhost:8888/v1"),
        ("http://10.0.0.7:8888/", "10.0.0.7", "http://10.0.0.7:8888/v1"),
        ("https://localhost:8888/", "localhost", "https://localhost:8888/v1"),
        ("http://0.0.0.0:8888/user/ada/", "", "http://127.0.0.1:8888/user/ada/v1"),
        ("http://127.0.0.1/user/ada/", "", "http://127.0.0.1/user/ada/v1"),
        ("http://localhost:8888/?token=abc", "localhost", "http://localhost:8888/v1"),
    ],
)
def test_url_as_seen_from_this_machine(server_url: str, listens_on: str, url: str) -> None:
    assert local_v1_url(server_url, listens_on) == url
