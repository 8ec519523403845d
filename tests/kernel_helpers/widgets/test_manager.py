from samovar.widgets import Manager
from tests.fakes.fake_server import MODEL, RESIDENT, SECONDS, Load, error_body
from tests.fakes.fake_workbench import FakeWorkbench
from tests.kernel_helpers.widgets.conftest import WIDGET, Screen, Watch, parts, press, text_of


def shown(server: FakeWorkbench, until: Watch) -> Manager:
    manager = Manager()
    manager.start()
    until(manager, lambda: MODEL in text_of(manager))
    return manager


def test_it_shows_memory_and_follows_the_server(server: FakeWorkbench, until: Watch) -> None:
    manager = shown(server, until)
    assert "ready, 1 running, 0 waiting" in text_of(manager)
    assert "cpu: models take 538 MB of 10 GB" in text_of(manager)
    assert 'role="meter"' in manager.devices.value
    assert manager.name.options == (MODEL,)
    server.publish("queue", {"cache_key": "k", "running": 0, "waiting": 0})
    until(manager, lambda: "leaves memory in" in text_of(manager))
    row = manager.rows.box.children[0]
    server.publish_model("stopped", state="stopped")
    until(manager, lambda: "No model is in memory." in text_of(manager))
    assert manager.rows.box.children == ()
    assert row.comm is None
    manager.close()
    assert manager.join(SECONDS)


def test_a_load_by_anybody_shows_its_progress(server: FakeWorkbench, until: Watch) -> None:
    server.resident = []
    manager = Manager()
    manager.start()
    server.publish_model("progress", {"phase": "importing", "fraction": 0.25}, state="starting")
    until(manager, lambda: 'aria-valuenow="25"' in text_of(manager))
    assert "importing the engine, 25%" in text_of(manager)
    press(manager, "Stop")
    until(manager, lambda: server.asked_at("/v1/models/unload") == [{"model": MODEL, "mode": "drain"}])
    server.publish_model("failed", state="failed", error="It was too large.")
    until(manager, lambda: "It was too large." in text_of(manager))
    press(manager, "Dismiss")
    until(manager, lambda: len(server.asked_at("/v1/models/unload")) == 2)
    manager.close()


def test_a_model_that_waits_for_its_requests_can_be_ended_now(server: FakeWorkbench, until: Watch) -> None:
    manager = shown(server, until)
    server.publish_model("draining", state="draining", in_flight=1)
    until(manager, lambda: "ending its requests" in text_of(manager))
    press(manager, "End now")
    until(manager, lambda: server.asked_at("/v1/models/unload") == [{"model": MODEL, "mode": "now"}])
    manager.close()


def test_rows_keep_their_buttons_so_that_the_focus_stays(server: FakeWorkbench, until: Watch) -> None:
    manager = shown(server, until)
    before = parts(manager.rows.box)
    server.publish_model("pinned", pinned=True)
    until(manager, lambda: "never (pinned)" in text_of(manager))
    assert parts(manager.rows.box) == before
    manager.close()


def test_buttons_ask_the_server(server: FakeWorkbench, until: Watch) -> None:
    manager = shown(server, until)
    press(manager, "Pin")
    until(manager, lambda: bool(server.asked_at("/v1/models/load")))
    server.publish_model("pinned", pinned=True)
    until(manager, lambda: "never (pinned)" in text_of(manager))
    press(manager, "Unpin")
    until(manager, lambda: len(server.asked_at("/v1/models/load")) == 2)
    press(manager, "Unload")
    until(manager, lambda: bool(server.asked_at("/v1/models/unload")))
    manager.name.value = "demo"
    press(manager, "Load")
    until(manager, lambda: len(server.asked_at("/v1/models/load")) == 3)
    assert server.asked_at("/v1/models/load") == [
        {"model": MODEL, "pin": True, "stream": True},
        {"model": MODEL, "pin": False, "stream": True},
        {"model": "demo", "stream": True},
    ]
    assert server.asked_at("/v1/models/unload") == [{"model": MODEL, "mode": "drain"}]
    manager.close()


def test_what_the_server_refuses_is_said(server: FakeWorkbench, until: Watch) -> None:
    manager = shown(server, until)
    server.enqueue(Load(error=error_body("model_not_found", "There is no <model>.")))
    press(manager, "Load")
    until(manager, lambda: 'role="alert">Error: There is no &lt;model&gt;.' in text_of(manager))
    press(manager, "Load")
    until(manager, lambda: "Error" not in text_of(manager))
    manager.close()


def test_a_picture_stays_in_the_notebook(server: FakeWorkbench, until: Watch, screen: Screen) -> None:
    manager = Manager()
    manager._ipython_display_()
    widget, first_picture = screen.outputs
    assert widget[WIDGET]["model_id"] == manager.model_id
    assert widget["text/plain"] == "samovar.widgets.Manager()"
    until(manager, lambda: MODEL in text_of(manager))
    manager.close()
    (picture,) = screen.pictures()
    assert MODEL in picture
    assert MODEL not in first_picture["text/html"]
    assert f"body:has(.{manager._picture.marker})" in picture  # hidden where the widget lives
    assert manager.comm is None
    assert all(part.comm is None for part in parts(manager))
    assert manager.join(SECONDS)


def test_events_and_clicks_from_many_threads(server: FakeWorkbench, until: Watch) -> None:
    """Rows come and go while buttons are pressed; in the end it shows what the server said last."""
    manager = shown(server, until)
    for number in range(200):
        server.publish_model("ready", cache_key=f"k{number % 7}", model=f"m/{number % 7}")
        if number % 3 == 0:
            server.publish_model("stopped", cache_key=f"k{number % 5}", state="stopped")
        if number % 20 == 0:
            manager.pin("k")
    server.publish("model", {"change": "ready", "model": RESIDENT | {"cache_key": "z", "model": "last/one"}})
    until(manager, lambda: "last/one" in text_of(manager))
    names = [model.name for model in manager.state.models()]
    with manager.guard:
        assert len(manager.rows.box.children) == len(names)
        assert all(name in text_of(manager) for name in names)
    manager.close()
    assert manager.join(SECONDS)
