from samovar.records import DeviceMemory, Event, LoadedModel
from samovar.widgets.memory import MemoryState
from tests.fakes.fake_server import RESIDENT
from tests.fakes.fake_workbench import CPU

MODEL = LoadedModel.from_json(RESIDENT | {"in_flight": 0})


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def state() -> tuple[MemoryState, Clock]:
    clock = Clock()
    memory = MemoryState(clock)
    memory.reset([MODEL], [DeviceMemory.from_json(CPU)])
    return memory, clock


def change(change: str, progress: dict[str, object] | None = None, **fields: object) -> Event:
    return Event("model", {"change": change, "model": RESIDENT | fields, "progress": progress})


def test_time_to_live_counts_down_to_nothing() -> None:
    memory, clock = state()
    assert memory.models()[0].leaves == "leaves memory in 300 s"
    clock.now += 90
    assert memory.models()[0].leaves == "leaves memory in 210 s"
    clock.now += 1000
    assert memory.models()[0].leaves == "leaves memory in 0 s"


def test_requests_stop_the_count_and_their_end_begins_it_anew() -> None:
    memory, clock = state()
    clock.now += 90
    memory.apply(Event("queue", {"cache_key": "k", "running": 2, "waiting": 1}))
    (busy,) = memory.models()
    assert (busy.doing, busy.leaves) == ("ready, 2 running, 1 waiting", "300 s after its last use")
    clock.now += 90
    memory.apply(Event("queue", {"cache_key": "k", "running": 0, "waiting": 0}))
    assert memory.models()[0].leaves == "leaves memory in 300 s"


def test_a_pinned_model_stays() -> None:
    memory, _ = state()
    memory.apply(change("pinned", pinned=True))
    assert memory.models()[0].leaves == "leaves memory never (pinned)"


def test_a_load_shows_its_progress_until_it_is_there() -> None:
    memory, _ = state()
    loading = {"phase": "weights", "fraction": 0.5, "bytes_done": 5e8, "bytes_total": 1e9}
    memory.apply(change("progress", loading, cache_key="other", model="a/b", state="starting"))
    first, second = memory.models()
    assert (first.progress, second.progress) == (None, 0.5)
    assert second.doing == "loading: reading the weights, 50%, 500 MB of 1.0 GB"
    assert second.state == "starting"
    memory.apply(change("ready", cache_key="other", model="a/b"))
    assert memory.models()[1].progress is None
    assert memory.models()[1].state == "ready"


def test_a_stopped_model_goes_and_a_failed_one_says_why() -> None:
    memory, _ = state()
    memory.apply(change("stopped", state="stopped"))
    assert memory.models() == []
    memory.apply(change("failed", state="failed", error="It is broken."))
    assert memory.models()[0].failure == "It is broken."


def test_devices_are_asked_for_again_only_when_models_come_or_go() -> None:
    memory, _ = state()
    memory.apply(change("progress", {"phase": "weights", "fraction": 0.5}, state="starting"))
    assert not memory.devices_changed
    memory.apply(change("ready"))
    assert memory.devices_changed
    memory.set_devices([DeviceMemory.from_json(CPU)])
    (device,) = memory.devices()
    assert not memory.devices_changed
    assert device.fraction == 0.0538
    assert device.words == "cpu: models take 538 MB of 10 GB that they may have; 9.0 GB free on the device"


def test_events_of_unknown_models_and_of_downloads_change_nothing() -> None:
    memory, _ = state()
    before = memory.models()
    memory.apply(Event("queue", {"cache_key": "gone", "running": 1, "waiting": 0}))
    memory.apply(Event("download", {"change": "progress", "job": {}}))
    assert memory.models() == before
