"""Each process of a Hub killed in the middle of a stream: typed errors, and recovery without an operator."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import User
from tests.hub.real_hub import PATIENCE, RealHub, until
from tests.processes import children_of, wait_for_end

pytestmark = pytest.mark.hub

MODEL = "demo:Q4_1"  # in llama.cpp, which loads it in a second
STORY: Any = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell a long story about a samovar."}],
    "stream": True,
    "max_tokens": 1900,
    "context_length": 2048,
}


@contextmanager
def story(user: User) -> Iterator[Iterator[str]]:
    """The events of an answer that has begun and goes on for long."""
    with user.client() as client, client.stream("POST", "chat/completions", json=STORY) as answer:
        events = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
        assert "content" in next(events)
        yield events


def told(events: Iterator[str]) -> str:
    """The code of the error that ends a stream."""
    *_, last = events
    return str(json.loads(last)["error"]["code"])


def answers(user: User) -> bool | None:
    """Whether the user's next question is answered; what is asked too early is refused with a typed error."""
    with user.client() as client:
        answer = client.post("chat/completions", json={**STORY, "stream": False, "max_tokens": 3})
    if answer.status_code == 200:
        return True
    assert answer.json()["error"]["code"] == "service_unavailable", answer.text
    assert int(answer.headers["Retry-After"]) > 0
    return None


def used(user: User) -> int:
    """Tokens of the user's requests that have ended."""
    with user.client() as client:
        rows = client.get("usage").raise_for_status().json()["data"]
    return sum(row["total_tokens"] for row in rows)


def worker_of(hub: RealHub, user: User) -> int:
    with user.client() as client:
        loaded = client.get("models/loaded").json()["loaded_models"]
    assert [model["backend"] for model in loaded if model["in_flight"]] == ["llamacpp"]
    (pid,) = (pid for pid in children_of(hub.service_pid()) if is_llama(pid))
    return pid


def is_llama(pid: int) -> bool:
    return "workers.llamacpp" in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_worker(hub: RealHub, ada: User) -> None:
    with story(ada) as events:
        os.kill(worker_of(hub, ada), signal.SIGKILL)
        assert told(events) == "model_crashed"
    assert answers(ada)


def test_the_hub(hub: RealHub, users: dict[str, User], admin: str) -> None:
    servers = {name: hub.server_pid(admin, name) for name in users}
    service = hub.service_pid()
    with story(users["ada"]) as events:
        workers = children_of(service)
        hub.process.kill()
        assert told(events) == "model_unloaded"
    for pid in (service, *workers):
        wait_for_end(pid)
    with users["bob"].client() as client:  # the proxy has outlived the Hub, and so have users' servers
        assert client.get("models").json()["error"]["code"] == "service_unavailable"
    hub.process.wait()
    hub.start()  # as systemd or a container's restart policy does
    until(lambda: answers(users["ada"]), "an answer to ada, on her old server with her old token")
    assert {name: hub.server_pid(admin, name) for name in users} == servers


def test_the_service(hub: RealHub, ada: User) -> None:
    service = hub.service_pid()
    assert answers(ada)
    before = used(ada)
    assert before > 0
    with story(ada) as events:
        workers = children_of(service)
        os.kill(service, signal.SIGKILL)
        assert told(events) == "service_unavailable"
    for worker in workers:
        wait_for_end(worker)
    assert answers(ada) is None
    until(lambda: answers(ada), "the Hub to start the service again", PATIENCE)
    assert used(ada) > before


def test_the_end_of_the_hub_is_the_end_of_all(hub: RealHub, users: dict[str, User], admin: str) -> None:
    servers = [hub.server_pid(admin, name) for name in users]
    service = hub.service_pid()
    with story(users["ada"]) as events:
        workers = children_of(service)
        hub.process.terminate()
        assert told(events) in {"model_unloaded", "service_unavailable"}
    assert hub.process.wait(PATIENCE) == 0
    for pid in (service, *workers, *servers):
        assert pid is not None
        wait_for_end(pid)
