"""Usage and quotas outlive a server that is killed in the middle of a stream."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from samovar_server.callers import OWNER
from tests.fakes.models import FAKE_WORKER, FakeScript, write_model
from tests.notebooks.jupyter import TOKEN, jupyter

PATH = "v1/chat/completions"
BODY = {"model": "org/m", "messages": [{"role": "user", "content": "one two three four"}]}
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@contextmanager
def server(folder: Path) -> Iterator[tuple[httpx.Client, int]]:
    """A server of its own process, and its id; the worker is a fake."""
    arguments = [
        f"--Workbench.model_folders={folder / 'models'}",
        *(f"--Workbench.worker_command={word}" for word in FAKE_WORKER),
        "--Workbench.spare_worker=False",
        '--Sharing.limits={"*": {"tokens_per_day": 17}}',
        "--Sharing.contact=the lab",
    ]
    with (
        jupyter(folder, *arguments) as started,
        httpx.Client(base_url=started.url, headers=HEADERS, trust_env=False, timeout=60) as client,
    ):
        yield client, started.process.pid


def stream_until_killed(client: httpx.Client, pid: int) -> None:
    body = BODY | {"model": "org/endless", "stream": True}
    with client.stream("POST", PATH, json=body) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number == 20:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.real
def test_kill_9_within_a_stream_takes_no_count_of_what_had_ended_and_no_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    write_model(tmp_path / "models", "org/m")
    write_model(tmp_path / "models", "org/endless", FakeScript(reply=["word "] * 500, token_seconds=0.01))
    with server(tmp_path) as (client, pid):
        for _ in range(2):
            answer = client.post(PATH, json=BODY).raise_for_status().json()
            assert answer["usage"]["total_tokens"] == 8
        with pytest.raises(httpx.TransportError):
            stream_until_killed(client, pid)
    with server(tmp_path) as (client, _):
        used = {line["model"]: line for line in client.get("v1/usage").json()["data"]}
        assert used["org/m"]["user"] == OWNER.name
        assert (used["org/m"]["requests"], used["org/m"]["total_tokens"]) == (2, 16)
        client.post(PATH, json=BODY)  # 16 of 17 are used, and what was written of the stream
        refused = client.post(PATH, json=BODY)
    assert refused.status_code == 429
    assert refused.json()["error"]["message"].endswith("Ask the lab for more.")
