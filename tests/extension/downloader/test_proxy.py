"""A download by way of a proxy, as the environment names it: the Hub has a name that only the proxy knows."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.extension.downloader.conftest import WANTED
from tests.fakes.fake_hub import FakeHub
from tests.fakes.fake_proxy import FakeProxy, proxying

HOST = "hub.invalid"
CREDENTIALS = "user:proxy-secret"


@pytest.fixture
def proxy(fake_hub: FakeHub) -> Iterator[FakeProxy]:
    with proxying(fake_hub.url) as fake:
        yield fake


def pull(folder: Path, endpoint: str, **proxies: str) -> dict[str, Any]:
    """The last event of a process with these proxies."""
    names = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
    own = {name: text for name, text in os.environ.items() if name.upper() not in names}
    more = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret"}
    command = [sys.executable, "-m", "samovar_server.downloader.pull", "org/tiny"]
    done = subprocess.run(command, env={**own, **more, **proxies}, capture_output=True, text=True)
    assert not [secret for secret in ("hf_secret", "proxy-secret") if secret in done.stdout + done.stderr]
    event: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return event


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_everything_goes_through_the_proxy(
    name: str, proxy: FakeProxy, fake_hub: FakeHub, tmp_path: Path
) -> None:
    event = pull(tmp_path, f"http://{HOST}", **{name: f"http://{CREDENTIALS}@{proxy.address}"})
    assert (event["event"], {file.name for file in Path(event["path"]).iterdir()}) == ("done", WANTED)
    assert set(fake_hub.fetched) == WANTED
    assert {line.split("/")[2] for line in proxy.asked} == {HOST}
    basic = base64.b64encode(CREDENTIALS.encode()).decode()
    assert proxy.credentials == {f"Basic {basic}"}


def test_https_asks_the_proxy_for_a_tunnel(proxy: FakeProxy, tmp_path: Path) -> None:
    event = pull(tmp_path, f"https://{HOST}", HTTPS_PROXY=f"http://{CREDENTIALS}@{proxy.address}")
    assert (event["event"], event["code"]) == ("failed", "hub_unreachable")
    assert "the network and its proxy" in event["message"]
    assert set(proxy.asked) == {f"CONNECT {HOST}:443"}


def test_no_proxy_goes_straight(proxy: FakeProxy, fake_hub: FakeHub, tmp_path: Path) -> None:
    event = pull(tmp_path, fake_hub.url, HTTP_PROXY=f"http://{proxy.address}", NO_PROXY="127.0.0.1")
    assert (event["event"], proxy.asked) == ("done", [])
