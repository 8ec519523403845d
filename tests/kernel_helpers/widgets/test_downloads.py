from samovar.widgets import Downloads
from tests.fakes.fake_server import SECONDS, error_body
from tests.fakes.fake_workbench import JOB, FakeWorkbench
from tests.kernel_helpers.widgets.conftest import Watch, press, text_of


def shown(until: Watch) -> Downloads:
    downloads = Downloads()
    downloads.start()
    until(downloads, lambda: "org/other" in text_of(downloads))
    return downloads


def test_bars_follow_the_server_and_say_rate_and_time_left(server: FakeWorkbench, until: Watch) -> None:
    server.jobs = [JOB]
    downloads = shown(until)
    assert "5.0 MB/s · 2 min 30 s left" in text_of(downloads)
    server.publish("download", {"change": "progress", "job": JOB | {"bytes_done": 750 * 10**6}})
    until(downloads, lambda: 'aria-valuenow="75"' in text_of(downloads))
    server.publish(
        "download", {"change": "failed", "job": JOB | {"status": "failed", "error": "<Disk> full."}}
    )
    until(downloads, lambda: "Error: &lt;Disk&gt; full." in text_of(downloads))
    assert "&lt;Disk&gt; full." in downloads.picture()
    downloads.close()
    assert downloads.join(SECONDS)


def test_cancel_and_resume(server: FakeWorkbench, until: Watch) -> None:
    server.jobs = [JOB]
    downloads = shown(until)
    press(downloads, "Cancel")
    until(downloads, lambda: "cancelled · 250 MB" in text_of(downloads))
    press(downloads, "Resume")
    until(downloads, lambda: "downloading · 25%" in text_of(downloads))
    asked = [(asked.method, asked.path) for asked in server.asked if "download/" in asked.path]
    assert asked == [("DELETE", "/v1/models/download/j1"), ("POST", "/v1/models/download/j1/resume")]
    downloads.close()


def test_check_and_download(server: FakeWorkbench, until: Watch) -> None:
    downloads = Downloads()
    press(downloads, "Download")
    assert "Name a model first" in text_of(downloads)
    downloads.repo.value = " org/other "
    press(downloads, "Check")
    until(downloads, lambda: "org/other: 3 files, 1.0 GB; 50 GB of the disk are free." in text_of(downloads))
    server.check |= {"status": "gated", "message": "Accept its licence first."}
    press(downloads, "Check")
    until(downloads, lambda: "org/other: Accept its licence first." in text_of(downloads))
    press(downloads, "Download")
    until(downloads, lambda: "pending" in text_of(downloads))
    assert server.asked_at("/v1/models/download") == [{"url": "org/other"}]
    downloads.close()


def test_what_the_hub_refuses_is_said(server: FakeWorkbench, until: Watch) -> None:
    server.refusal = error_body("hub_unreachable", "The Hub does not answer.")
    downloads = Downloads()
    downloads.repo.value = "org/other"
    press(downloads, "Download")
    until(downloads, lambda: "Error: The Hub does not answer." in text_of(downloads))
    downloads.close()
