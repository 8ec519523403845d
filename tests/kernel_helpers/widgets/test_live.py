import queue

import pytest

from samovar.errors import SamovarError
from samovar.session import current_session
from samovar.widgets import live
from samovar.widgets.live import Listener
from tests.fakes.fake_server import SECONDS
from tests.fakes.fake_workbench import FakeWorkbench


def listen(server: FakeWorkbench) -> tuple[Listener, "queue.Queue[str]"]:
    heard: queue.Queue[str] = queue.Queue()

    def trouble(error: SamovarError) -> None:
        heard.put(type(error).__name__)

    return Listener(current_session, lambda _, event: heard.put(event.kind), trouble), heard


def test_events_come_as_they_happen_and_close_ends_the_thread_at_once(server: FakeWorkbench) -> None:
    listener, heard = listen(server)
    assert heard.get(timeout=SECONDS) == "open"
    server.publish("queue", {"cache_key": "k", "running": 1, "waiting": 0})
    assert heard.get(timeout=SECONDS) == "queue"
    listener.close()
    assert listener.join(SECONDS)
    assert server.disconnected.wait(SECONDS)
    assert heard.empty()


def test_it_comes_back_after_the_server_has_gone(
    server: FakeWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RETRY_SECONDS", (0.0, 0.01))
    listener, heard = listen(server)
    assert heard.get(timeout=SECONDS) == "open"
    server.hang_up()
    assert heard.get(timeout=SECONDS) == "open"
    server.publish("model", {})
    assert heard.get(timeout=SECONDS) == "model"
    listener.close()
    assert listener.join(SECONDS)


def test_trouble_is_told_and_tried_again(server: FakeWorkbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RETRY_SECONDS", (0.0, 0.01))
    server.token = "another"
    listener, heard = listen(server)
    assert heard.get(timeout=SECONDS) == "ServerError"
    server.token = "fake-token"
    while (kind := heard.get(timeout=SECONDS)) == "ServerError":
        pass
    assert kind == "open"
    listener.close()
    assert listener.join(SECONDS)
