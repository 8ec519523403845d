from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from samovar_server import metrics
from samovar_server.cache.records import CacheStats, DeviceMemory, LoadedModel, ModelChange, TokensCounted
from samovar_server.downloader.job import STATUSES, DownloadCounts
from tests.server_handlers.fakes import MODEL


@pytest.fixture(autouse=True)
def fresh_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus's registry is the process's: what other tests counted stays, under labels of their own."""
    monkeypatch.setattr(metrics, "_labels", set())


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def named(name: str) -> LoadedModel:
    return LoadedModel(**{field: getattr(MODEL, field) for field in MODEL.__slots__} | {"model": name})


def test_changes_are_counted_by_model() -> None:
    before = value("samovar_load_seconds_sum", model="metrics/a")
    for change in ("starting", "progress", "ready", "evicted", "draining", "stopped", "starting", "failed"):
        seconds = 3.0 if change == "ready" else None
        metrics.count_change(ModelChange(change, named("metrics/a"), seconds=seconds))  # type: ignore[arg-type]
    metrics.count_change(ModelChange("ready", named("metrics/a")))  # it has grown; it was not loaded again
    counted = {
        name: value(f"samovar_{name}", model="metrics/a")
        for name in ("loads_total", "failures_total", "evictions_total", "load_seconds_count")
    }
    assert counted == {"loads_total": 2, "failures_total": 1, "evictions_total": 1, "load_seconds_count": 1}
    assert value("samovar_load_seconds_sum", model="metrics/a") - before == 3.0


def test_tokens_are_counted_by_kind() -> None:
    metrics.count_tokens(TokensCounted("metrics/b", 5, 7, 11, 8, 3))
    metrics.count_tokens(TokensCounted("metrics/b", 1, 0, 2))
    kinds = ("prompt", "cached", "generated", "draft", "accepted")
    counts = [value("samovar_tokens_total", model="metrics/b", kind=kind) for kind in kinds]
    assert counts == [6, 7, 13, 8, 3]


def test_a_stream_is_timed_from_its_request_to_its_first_piece_and_from_piece_to_piece() -> None:
    timer = metrics.StreamTimer()
    for _ in range(4):
        timer.piece("metrics/c")
    assert value("samovar_time_to_first_token_seconds_count", model="metrics/c") == 1
    assert value("samovar_inter_token_seconds_count", model="metrics/c") == 3


def test_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_MODELS", 2)
    assert [metrics.label(name) for name in ("a", "b", "c", "a", "d")] == [
        "a",
        "b",
        metrics.OTHERS,
        "a",
        metrics.OTHERS,
    ]


@pytest.fixture
def collector() -> Iterator[metrics.CacheCollector]:
    memory = [DeviceMemory("cpu", 100, 50, 80, 10)]
    stats = CacheStats(1, 0, 4, 3, 1, 0.75, 0, 0.0, 1.0, memory)
    collector = metrics.CacheCollector(lambda: stats, lambda: [named("metrics/d"), named("metrics/e")])
    collector.register()
    yield collector
    collector.unregister()


def test_what_the_cache_knows_is_asked_of_it(collector: metrics.CacheCollector) -> None:
    assert value("samovar_cache_hits_total") == 3
    assert value("samovar_cache_misses_total") == 1
    assert value("samovar_requests_served_total") == 4
    assert value("samovar_memory_budget_bytes", device="cpu") == 80
    assert value("samovar_memory_used_bytes", device="cpu") == 10
    for model in ("metrics/d", "metrics/e"):
        assert value("samovar_model_memory_bytes", model=model, device="cpu", state="ready") == 1000
        assert value("samovar_model_requests_waiting", model=model, device="cpu", state="ready") == 0


def test_models_that_share_a_label_are_added_up(
    collector: metrics.CacheCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_MODELS", 0)
    labels = {"model": metrics.OTHERS, "device": "cpu", "state": "ready"}
    assert value("samovar_model_memory_bytes", **labels) == 2000


def test_what_is_known_of_downloads_is_asked_for() -> None:
    counts = DownloadCounts({"downloading": 2, "failed": 1}, 70, 30, {"disk_full": 1})
    collector = metrics.DownloadCollector(lambda: counts)
    collector.register()
    try:
        assert [value("samovar_downloads", status=status) for status in STATUSES] == [0, 2, 0, 1, 0]
        assert value("samovar_download_failures_total", reason="disk_full") == 1
        assert value("samovar_download_left_bytes") == 70
        assert value("samovar_download_fetched_bytes_total") == 30
    finally:
        collector.unregister()
