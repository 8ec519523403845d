from samovar.widgets import Picker
from tests.fakes.fake_server import MODEL, SECONDS, Load, error_body
from tests.fakes.fake_workbench import JOB, STORED, FakeWorkbench
from tests.kernel_helpers.widgets.conftest import Watch, press, text_of


def shown(until: Watch) -> Picker:
    picker = Picker()
    picker.start()
    until(picker, lambda: bool(picker.models.options))
    return picker


def labels(picker: Picker) -> list[str]:
    return [label for label, _ in picker.models.options]


def test_it_lists_the_disk_and_nothing_is_chosen_yet(server: FakeWorkbench, until: Watch) -> None:
    picker = shown(until)
    assert labels(picker) == [f"{MODEL} · 269 MB · safetensors · on disk · ✓ fits"]
    assert picker.value is None
    assert picker.load_button.disabled
    assert picker.download_button.disabled
    assert MODEL in picker.picture()
    picker.close()
    assert picker.join(SECONDS)


def test_what_a_load_would_take_under_the_options(server: FakeWorkbench, until: Watch) -> None:
    picker = shown(until)
    picker.models.value = MODEL
    until(picker, lambda: "Needs 600 MB on cpu" in text_of(picker))
    server.estimate["fits"] = False
    picker.context.value = "8192"
    picker.quantization.value = "int8"
    asked = {"model": MODEL, "quantization": "int8", "context_length": 8192}
    until(picker, lambda: asked in server.asked_at("/v1/models/estimate"))
    until(picker, lambda: "it does not fit" in text_of(picker))
    picker.context.value = "lots"
    assert "such as 2048, not &#x27;lots&#x27;" in text_of(picker)
    picker.close()


def test_the_hub_is_searched_and_its_models_downloaded(server: FakeWorkbench, until: Watch) -> None:
    picker = shown(until)
    picker.text.value = "oth"
    assert labels(picker) == []
    press(picker, "Search Hub")
    until(picker, lambda: len(picker.models.options) == 1)
    assert "The Hub has 1 models" in text_of(picker)
    picker.models.value = "org/other"
    until(picker, lambda: not picker.download_button.disabled)
    assert picker.load_button.disabled
    press(picker, "Download")
    until(picker, lambda: "org/other is being downloaded" in text_of(picker))
    assert server.asked_at("/v1/models/download") == [{"url": "org/other"}]
    server.stored.append(STORED | {"model_name": "org/other"})
    server.publish("download", {"change": "completed", "job": JOB | {"status": "completed"}})
    until(picker, lambda: "org/other · 269 MB · safetensors · on disk · ✓ fits" in labels(picker))
    assert picker.value == "org/other"
    assert "org/other is on disk." in text_of(picker)
    picker.text.value = ""
    assert len(labels(picker)) == 2
    picker.close()


def test_without_the_hub_the_disk_is_still_there(server: FakeWorkbench, until: Watch) -> None:
    picker = shown(until)
    server.refusal = error_body("hub_unreachable", "The Hub does not answer.")
    picker.text.value = "smol"
    press(picker, "Search Hub")
    until(picker, lambda: "Error: The Hub does not answer." in text_of(picker))
    assert len(labels(picker)) == 1
    picker.close()


def test_loading_with_options_shows_the_progress(server: FakeWorkbench, until: Watch) -> None:
    picker = shown(until)
    picker.models.value = MODEL
    picker.dtype.value = "bfloat16"
    picker.pin.value = True
    assert [value for _, value in picker.device.options] == ["auto", "cpu"]
    picker.device.value, picker.backend.value, picker.ttl.value = "cpu", "transformers", "soon"
    press(picker, "Load")
    assert "The time to live is a number of seconds, 0 for ever" in text_of(picker)
    picker.ttl.value = "60"
    until(picker, lambda: "it fits" in text_of(picker))
    server.enqueue(Load([{"phase": "warmup", "fraction": 0.9}], hang=True), Load())
    press(picker, "Load")
    until(picker, lambda: "warming up" in text_of(picker))
    press(picker, "Load")
    until(picker, lambda: f"{MODEL} is in memory." in text_of(picker))
    assert server.asked_at("/v1/models/load")[0] == {
        "model": MODEL,
        "backend": "transformers",
        "device": "cpu",
        "dtype": "bfloat16",
        "ttl": 60,
        "pin": True,
        "stream": True,
    }
    picker.close()
