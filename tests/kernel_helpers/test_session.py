import os
import queue
import threading
from contextlib import closing

import pytest

from samovar.connect import Server, transport_for
from samovar.errors import ConnectionLost, NoServer, ServerError, Stopped
from samovar.records import LoadProgress
from samovar.session import Session, current_session
from tests.fakes.fake_server import MODEL, SECONDS, FakeServer, Load, Reply, error_body

STEPS = [
    {"phase": "importing", "fraction": 0.1, "bytes_done": 0, "bytes_total": 0},
    {"phase": "weights", "fraction": 0.5, "bytes_done": 5, "bytes_total": 10},
]


def test_models_and_memory(fake_server: FakeServer) -> None:
    session = current_session()
    assert [model.id for model in session.models()] == [MODEL]
    (loaded,) = session.loaded()
    assert (loaded.model, loaded.memory_bytes, loaded.ttl_remaining) == (MODEL, 538_000_000, 300.0)
    assert [model.model for model in session.unload(MODEL, now=True)] == [MODEL]
    assert session.unload_all() == []
    assert fake_server.asked_at("/v1/models/unload") == [{"model": MODEL, "mode": "now"}]
    assert fake_server.asked_at("/v1/models/unload-all") == [{"mode": "drain"}]


def test_load_tells_its_progress(fake_server: FakeServer) -> None:
    fake_server.enqueue(Load(STEPS))
    seen: list[LoadProgress] = []
    loaded = current_session().load("demo", ttl=0, pin=True, on_progress=seen.append)
    assert loaded.model == MODEL
    assert [(step.phase, step.fraction) for step in seen] == [("importing", 0.1), ("weights", 0.5)]
    assert fake_server.asked_at("/v1/models/load") == [
        {"model": "demo", "ttl": 0, "pin": True, "stream": True}
    ]


@pytest.mark.parametrize("steps", [[], STEPS])
def test_a_load_that_fails(fake_server: FakeServer, steps: list[dict[str, object]]) -> None:
    fake_server.enqueue(Load(steps, error=error_body("model_not_found", "No such model.", "model")))
    with pytest.raises(ServerError, match="No such model") as error:
        current_session().load("x")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    assert error.value.status == (None if steps else 404)


def test_an_iterator_that_is_closed_closes_the_connection(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(hang_after=1))
    body = {"messages": [], "stream": True}
    with closing(current_session().stream("/chat/completions", body)) as events:
        next(events)
    assert fake_server.disconnected.wait(SECONDS)


def test_wrong_token(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMOVAR_TOKEN", "wrong")
    with pytest.raises(ServerError, match="credentials") as error:
        current_session().models()
    assert error.value.status == 401
    assert "wrong" not in str(error.value)


def test_something_else_answers_at_that_url(fake_server: FakeServer) -> None:
    elsewhere = Server(fake_server.url + "/elsewhere", "", "arguments")
    with (
        closing(Session(elsewhere)) as session,
        pytest.raises(ServerError, match=r"answered 404 .*Is that its"),
    ):
        session.models()


def test_nobody_answers() -> None:
    with FakeServer() as gone:
        url = gone.url
    with closing(Session(Server(url, "secret", "SAMOVAR_URL"))) as session:
        with pytest.raises(NoServer, match=r"does not answer.*`samovar serve`") as error:
            session.models()
        assert "secret" not in str(error.value)


def test_nonsense_on_a_stream_is_told_as_a_broken_connection(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(comments=["hello\n\ndata: {nonsense"]))
    with pytest.raises(ConnectionLost):
        list(current_session().stream("/chat/completions", {"stream": True}))


def test_connections_are_kept_while_the_server_is_the_same(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = current_session()
    assert current_session() is first
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert current_session() is not first  # as in a forked child
    first.close()
    monkeypatch.setenv("SAMOVAR_URL", "http://127.0.0.1:1/v1")
    assert current_session().server.url == "http://127.0.0.1:1/v1"


def test_a_proxy_is_not_asked_for_this_machine(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert current_session().models()


def test_the_proxy_is_asked_for_other_machines() -> None:
    assert transport_for("http://example.org/v1") is None


def test_abort_ends_a_stream_that_another_thread_reads(fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(hang_after=1))
    session = Session(current_session().server)
    ended: queue.Queue[Exception] = queue.Queue()

    def read() -> None:
        try:
            for _ in session.stream("/chat/completions", {"messages": [], "stream": True}):
                pass
        except Stopped as error:
            ended.put(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert fake_server.hanging.wait(SECONDS)
    session.abort()
    assert str(ended.get(timeout=SECONDS)) == "Stopped."
    reader.join(SECONDS)
    with pytest.raises(Stopped):
        next(session.stream("/chat/completions", {"messages": [], "stream": True}))
    session.close()
