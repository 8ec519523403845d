import pytest

from samovar.records import Download, Event
from samovar.widgets.transfers import SHOWN, TransferState
from tests.fakes.fake_workbench import JOB


def row(**fields: object) -> tuple[str, float | None]:
    state = TransferState()
    state.reset([Download.from_json(JOB | fields)])
    (shown,) = state.downloads()
    return shown.words, shown.fraction


@pytest.mark.parametrize(
    ("fields", "words", "fraction"),
    [
        ({}, "downloading · 25% · 250 MB of 1.0 GB · 5.0 MB/s · 2 min 30 s left · 1 of 3 files", 0.25),
        ({"bytes_total": 0, "eta_seconds": None}, "downloading · 250 MB · 5.0 MB/s · 1 of 3 files", None),
        (
            {"status": "completed", "bytes_done": 10**9, "duration_seconds": 200.0, "files_downloaded": 3},
            "completed · 1.0 GB of 1.0 GB · 3 of 3 files · in 3 min 20 s",
            1.0,
        ),
        (
            {"status": "failed", "error": "The Hub does not answer.", "message": "again"},
            "failed · 250 MB of 1.0 GB · 1 of 3 files",
            0.25,
        ),
        (
            {"status": "pending", "bytes_total": 0, "bytes_done": 0, "files_total": 0, "message": "waits"},
            "pending · waits",
            None,
        ),
    ],
)
def test_words(fields: dict[str, object], words: str, fraction: float | None) -> None:
    assert row(**fields) == (words, fraction)


def test_events_replace_what_was_known_and_the_newest_come_first() -> None:
    state = TransferState()
    state.reset([Download.from_json(JOB)])
    state.apply(Event("download", {"change": "cancelled", "job": JOB | {"status": "cancelled"}}))
    for number in range(2, SHOWN + 3):
        job = JOB | {"job_id": f"j{number}", "created_at": float(number)}
        state.apply(Event("download", {"change": "pending", "job": job}))
    state.apply(Event("model", {}))
    shown = state.downloads()
    assert [row.key for row in shown] == [f"j{number}" for number in range(SHOWN + 2, 2, -1)]


def test_what_can_be_done_with_a_download() -> None:
    state = TransferState()
    for status in ("downloading", "cancelled", "failed", "completed"):
        state.put(Download.from_json(JOB | {"job_id": status, "status": status}))
    can = {row.key: (row.runs, row.can_resume) for row in state.downloads()}
    assert can == {
        "downloading": (True, False),
        "cancelled": (False, True),
        "failed": (False, True),
        "completed": (False, False),
    }
