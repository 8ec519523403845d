"""Fetching from a Hub that misbehaves; what has come is read by the real huggingface_hub, offline."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, scan_cache_dir, snapshot_download

from samovar_server.downloader import fetch, hub
from samovar_server.downloader.failures import PullFailed, SourceUnavailable
from samovar_server.downloader.plan import Choice
from samovar_server.downloader.retry import Backoff, asked_pause
from samovar_server.downloader.tally import Tally
from samovar_server.inventory.cleaning import Cleaning, clean
from samovar_server.inventory.leftovers import PARTIAL_SUFFIX, list_leftovers
from samovar_server.inventory.scan import list_models
from tests.extension.downloader.conftest import FILES, PATIENCE, WANTED, WEIGHTS, Recorder
from tests.fakes.fake_hub import PIECE, FakeHub, Fault

NAME = "model.safetensors"


def bring(reporter: Recorder) -> Path:
    return hub.into_cache(hub.plan("org/tiny", None, Choice(), reporter), reporter)


def assert_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tool finds all of it without the network, and nothing lies about."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path = Path(snapshot_download("org/tiny", local_files_only=True))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {name: FILES[name] for name in WANTED}
    assert partials() == []
    (repo,) = scan_cache_dir(constants.HF_HUB_CACHE).repos
    assert (repo.nb_files, len(repo.refs)) == (len(WANTED), 1)


def partials() -> list[Path]:
    return sorted(Path(constants.HF_HUB_CACHE).rglob(f"*{PARTIAL_SUFFIX}"))


def partial_of(fake_hub: FakeHub) -> Path:
    blobs = Path(constants.HF_HUB_CACHE, "models--org--tiny", "blobs")
    return blobs / (fake_hub.digest(NAME) + PARTIAL_SUFFIX)


def leave_partial(fake_hub: FakeHub, data: bytes) -> None:
    """As an earlier attempt left it."""
    partial_of(fake_hub).parent.mkdir(parents=True)
    partial_of(fake_hub).write_bytes(data)


@pytest.mark.parametrize("after", [0, 1, 65_535, 65_536, 150_001, len(WEIGHTS) - 1])
def test_a_dropped_connection_goes_on_where_it_was(
    after: int, fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.faults = {NAME: [Fault(drop_after=after)]}
    bring(reporter)
    starts = [start for name, start in fake_hub.ranges if name == NAME]
    assert len(starts) == 2
    assert starts[0] == 0
    assert starts[1] <= after
    assert_whole(monkeypatch)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_hub_in_trouble_is_asked_again(
    status: int, fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(status=status, headers={"Retry-After": "0"})
    fake_hub.faults = {NAME: [fault, Fault(drop_after=100_000), fault, fault]}
    bring(reporter)
    assert_whole(monkeypatch)


def test_a_rate_limit_is_waited_for(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetch, "BACKOFF", Backoff(first=0.0))
    monkeypatch.setattr(fetch.Fetcher, "_pause", lambda self, seconds: pauses.append(seconds))
    limits = {"Retry-After": "17"}, {"RateLimit": '"resolvers";r=0;t=55'}, {"Retry-After": "3600"}
    fake_hub.faults = {NAME: [Fault(status=429, headers=headers) for headers in limits]}
    bring(reporter)
    assert pauses == [17.0, 55.0, fetch.BACKOFF.longest_asked]
    assert_whole(monkeypatch)


def test_a_connection_that_falls_silent_counts_as_dropped(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.5)
    fake_hub.faults = {NAME: [Fault(stall_after=2 * PIECE)]}
    bring(reporter)
    assert [start for name, start in fake_hub.ranges if name == NAME][:2] == [0, 2 * PIECE]
    assert_whole(monkeypatch)


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_when_all_is_here_is_asked_again(
    status: int, fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.faults = {NAME: [Fault(status=status, method="HEAD")] * 2}
    wanted = hub.plan("org/tiny", None, Choice(), reporter)
    leave_partial(fake_hub, WEIGHTS)
    hub.into_cache(wanted, reporter)
    assert fake_hub.faults == {NAME: []}
    assert_whole(monkeypatch)


def test_a_hub_that_stays_in_trouble_is_given_up_and_what_came_stays(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.faults = {NAME: [Fault(drop_after=100_000), *[Fault(status=503)] * 20]}
    with pytest.raises(SourceUnavailable, match="answered 503"):
        bring(reporter)
    partial = partial_of(fake_hub)
    assert 0 < partial.stat().st_size <= 100_000
    assert list_models([]) == []
    fake_hub.faults = {}
    came = partial.stat().st_size
    fake_hub.ranges.clear()
    bring(reporter)
    assert (NAME, came) in fake_hub.ranges
    assert_whole(monkeypatch)


def test_what_another_process_left_is_gone_on_with(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_partial(fake_hub, WEIGHTS[:123_456])
    bring(reporter)
    assert (NAME, 123_456) in fake_hub.ranges
    assert fake_hub.sent[NAME] == len(WEIGHTS) - 123_456
    last = [event for event in reporter.events if event.get("phase") == "downloading"][-1]
    assert last["bytes_total"] - last["bytes_fetched"] == 123_456
    assert_whole(monkeypatch)


def test_a_whole_partial_needs_no_more_bytes(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_partial(fake_hub, WEIGHTS)
    bring(reporter)
    assert NAME not in fake_hub.fetched
    assert_whole(monkeypatch)


@pytest.mark.parametrize("left", [b"damaged" * 1000, WEIGHTS + b"too long", b"x" * len(WEIGHTS)])
def test_a_damaged_partial_is_fetched_anew_once(
    left: bytes, fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_partial(fake_hub, left)
    bring(reporter)
    assert_whole(monkeypatch)


def test_a_server_without_ranges_begins_anew(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.knows_range = False
    fake_hub.faults = {NAME: [Fault(drop_after=100_000)]}
    bring(reporter)
    assert_whole(monkeypatch)
    done = [event["bytes_done"] for event in reporter.events if event["event"] == "progress"]
    downloading = [event["bytes_done"] for event in reporter.events if event.get("phase") == "downloading"]
    assert downloading == sorted(downloading)
    assert done


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(
    fake_hub: FakeHub, reporter: Recorder
) -> None:
    fake_hub.knows_range = False
    fake_hub.faults = {NAME: [Fault(drop_after=100_000) for _ in range(50)]}
    with pytest.raises(SourceUnavailable):
        bring(reporter)
    assert len(fake_hub.faults[NAME]) > 30


@pytest.mark.parametrize("size", [100, len(WEIGHTS) + 100])
def test_a_file_of_another_size_is_thrown_away(size: int, fake_hub: FakeHub, reporter: Recorder) -> None:
    fake_hub.faults = {NAME: [Fault(size=size)]}
    with pytest.raises(PullFailed, match="another size") as caught:
        bring(reporter)
    assert caught.value.code == "size_mismatch"
    assert not partial_of(fake_hub).exists()
    assert list_models([]) == []


def test_a_file_that_vanished(fake_hub: FakeHub, reporter: Recorder) -> None:
    wanted = hub.plan("org/tiny", None, Choice(), reporter)
    del fake_hub.files[NAME]
    with pytest.raises(PullFailed, match="not on the Hub any more") as caught:
        hub.into_cache(wanted, reporter)
    assert caught.value.code == "file_vanished"
    assert list_models([]) == []


def test_a_redirect_to_another_host_does_not_get_the_token(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fake_hub.redirects = True
    fake_hub.faults = {NAME: [Fault(drop_after=100_000)]}
    bring(reporter)
    assert "Bearer hf_secret" in fake_hub.tokens
    assert set(fake_hub.cdn_tokens) == {None}
    assert_whole(monkeypatch)


def test_a_gated_repo_says_whose_turn_it_is(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.gated, fake_hub.granted = True, {"hf_granted"}
    with pytest.raises(PullFailed, match=f"at {fake_hub.url}/org/tiny, create a token") as caught:
        bring(reporter)
    assert caught.value.code == "gated"
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(PullFailed, match="the token of that account") as caught:
        bring(reporter)
    assert "hf_other" not in caught.value.message
    assert fake_hub.fetched == []
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    bring(reporter)
    assert_whole(monkeypatch)


def test_a_disk_that_fills_up_on_the_way(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "CHECK_SPACE_EVERY", 1)
    usage = shutil.disk_usage("/")

    def fill(name: str, position: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))

    fake_hub.on_piece = fill
    with pytest.raises(PullFailed, match="free some space") as caught:
        bring(reporter)
    assert caught.value.code == "disk_full"
    assert list_models([]) == []


def test_files_come_side_by_side(fake_hub: FakeHub, reporter: Recorder) -> None:
    both = threading.Barrier(2, timeout=PATIENCE)
    fake_hub.files["tokenizer.json"] = b" " * (2 * PIECE)

    def meet(name: str, position: int) -> None:
        # In the middle of both: the connection of a file that is whole would be used for the next one.
        if name in ("tokenizer.json", NAME) and position == PIECE:
            both.wait()  # broken when the one comes only after the other

    fake_hub.on_piece = meet
    bring(reporter)
    assert not both.broken


def test_two_at_once_fetch_each_file_once(
    fake_hub: FakeHub, reporter: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_way, both_ask = threading.Event(), threading.Event()

    def hold(name: str, position: int) -> None:
        if name == NAME and not half_way.is_set():
            half_way.set()
            assert both_ask.wait(PATIENCE)

    fake_hub.on_piece = hold
    failures: list[BaseException] = []

    def other() -> None:
        try:
            assert half_way.wait(PATIENCE)
            wanted = hub.plan("org/tiny", None, Choice(), reporter)
            both_ask.set()
            hub.into_cache(wanted, reporter)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    bring(reporter)
    thread.join()
    assert failures == []
    assert sorted(fake_hub.fetched) == sorted(WANTED)
    assert_whole(monkeypatch)


def test_what_a_running_download_has_brought_is_not_cleaned_away(
    fake_hub: FakeHub, reporter: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PARALLEL_FILES", 1)  # so that whole blobs lie there without a name
    tried: list[Cleaning] = []

    def tidy(name: str, position: int) -> None:
        if name == NAME:
            tried.append(clean(list_leftovers([], tmp_path / "converted", ())))

    fake_hub.on_piece = tidy
    bring(reporter)
    assert {left.kind for cleaning in tried for left in cleaning.in_use} == {"orphan", "partial"}
    assert [cleaning.removed for cleaning in tried] == [()] * len(tried)
    assert_whole(monkeypatch)


def test_progress_is_exact_at_the_end_and_tells_of_each_file(fake_hub: FakeHub, reporter: Recorder) -> None:
    bring(reporter)
    last = [event for event in reporter.events if event.get("phase") == "downloading"][-1]
    sizes = {name: len(FILES[name]) for name in WANTED}
    assert last["bytes_done"] == last["bytes_total"] == sum(sizes.values())
    files: list[dict[str, Any]] = last["files"]
    assert {file["path"]: file["bytes_done"] for file in files} == sizes
    assert all(file["finished"] for file in files)


def test_the_tally_never_goes_back() -> None:
    tally = Tally({"a": 10, "b": 5})
    tally.reached("a", 8)
    tally.reached("a", 2)
    assert tally.bytes_done() == 8
    tally.reached("a", 12)
    tally.finished("b")
    assert tally.bytes_done() == 15
    assert [(file.path, file.finished) for file in tally.files()] == [("a", False), ("b", True)]


def test_the_pauses_double_up_to_a_limit_and_heed_the_server() -> None:
    backoff = Backoff(first=1.0, longest=8.0, longest_asked=60.0, attempts=5)
    for failures, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (9, 8.0)):
        assert most / 2 <= backoff.delay(failures) <= most
    assert backoff.delay(1, 30.0) == 30.0
    assert backoff.delay(1, 3600.0) == 60.0
    assert [backoff.is_over(failures) for failures in (4, 5)] == [False, True]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:20:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=3;t=55'}, None),
        ({"Retry-After": "7", "RateLimit": '"api";r=0;t=55'}, 7.0),
    ],
)
def test_how_long_a_server_wants_to_be_left_alone(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_pause(headers, datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == seconds
