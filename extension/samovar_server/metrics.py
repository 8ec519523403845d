"""What Prometheus reads of samovar, in Jupyter's own `/metrics`.

Counters and times are kept here; what the cache and the downloads know anyway (hits, memory, queues, bytes)
is asked of them when Prometheus asks. Labels are model names, of which at most MAX_MODELS are told apart,
since each is a time series for ever; no label holds anything that a client made up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from samovar_server.cache.records import CacheStats, LoadedModel, ModelChange, TokensCounted
from samovar_server.downloader.job import STATUSES, DownloadCounts

MAX_MODELS = 100
OTHERS = "(other models)"
"""The label of all models beyond the first MAX_MODELS."""

LOADS = Counter("samovar_loads", "Loads that were begun.", ["model"])
LOAD_FAILURES = Counter("samovar_failures", "Loads that failed and workers that crashed or hung.", ["model"])
EVICTIONS = Counter("samovar_evictions", "Models that had to go for others.", ["model"])
LOAD_SECONDS = Histogram(
    "samovar_load_seconds",
    "From the start of a load to a model that is ready, the wait for room included.",
    ["model"],
    buckets=(0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600),
)
TOKENS = Counter(
    "samovar_tokens",
    "Tokens, by kind: prompt tokens that were computed, those found in the KV cache, generated ones, and "
    "drafts, those checked and those accepted.",
    ["model", "kind"],
)
USAGE_TOKENS = Counter(
    "samovar_usage_tokens",
    "Tokens of requests that have ended, by kind: prompt and completion. Users are told apart only with "
    "c.Sharing.metrics_by_user.",
    ["model", "user", "kind"],
)
FIRST_TOKEN_SECONDS = Histogram(
    "samovar_time_to_first_token_seconds",
    "From a streamed request's arrival to its first text, loading and waiting included.",
    ["model"],
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120),
)
INTER_TOKEN_SECONDS = Histogram(
    "samovar_inter_token_seconds",
    "Between two pieces of a streamed answer.",
    ["model"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)

_labels: set[str] = set()


def label(model: str) -> str:
    """The label that stands for `model`."""
    if model not in _labels and len(_labels) >= MAX_MODELS:
        return OTHERS
    _labels.add(model)
    return model


def count_change(change: ModelChange) -> None:
    """Count what happened to a model."""
    model = label(change.model.model)
    match change.change:
        case "starting":
            LOADS.labels(model).inc()
        case "failed":
            LOAD_FAILURES.labels(model).inc()
        case "evicted":
            EVICTIONS.labels(model).inc()
        case "ready" if change.seconds is not None:
            LOAD_SECONDS.labels(model).observe(change.seconds)


def count_tokens(counted: TokensCounted) -> None:
    """Count tokens of a model."""
    model = label(counted.model)
    TOKENS.labels(model, "prompt").inc(counted.prompt_tokens)
    TOKENS.labels(model, "cached").inc(counted.cached_tokens)
    TOKENS.labels(model, "generated").inc(counted.generated_tokens)
    TOKENS.labels(model, "draft").inc(counted.draft_tokens)
    TOKENS.labels(model, "accepted").inc(counted.accepted_tokens)


def count_usage(model: str, user: str, prompt_tokens: int, completion_tokens: int) -> None:
    """Count what one request has used; `user` "" stands for nobody in particular."""
    name = label(model)
    USAGE_TOKENS.labels(name, user, "prompt").inc(prompt_tokens)
    USAGE_TOKENS.labels(name, user, "completion").inc(completion_tokens)


class StreamTimer:
    """Times one streamed answer, from now on."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._between: Histogram | None = None  # that of the model, once it has begun to answer

    def piece(self, model: str) -> None:
        """A piece of `model`'s answer is here."""
        now = time.perf_counter()
        if self._between is None:
            name = label(model)
            self._between = INTER_TOKEN_SECONDS.labels(name)
            FIRST_TOKEN_SECONDS.labels(name).observe(now - self._last)
        else:
            self._between.observe(now - self._last)
        self._last = now


class LiveCollector(Collector):
    """Shows what is known anyway, at the moment when Prometheus asks."""

    def register(self) -> None:
        """Be shown from now on."""
        REGISTRY.register(self)

    def unregister(self) -> None:
        """Be shown no more."""
        REGISTRY.unregister(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before it is asked for."""
        return iter(())


class DownloadCollector(LiveCollector):
    """What the server knows of its downloads. No label names a model: anybody may ask for any name."""

    def __init__(self, counts: Callable[[], DownloadCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """What Prometheus gets."""
        counts = self._counts()
        jobs = GaugeMetricFamily("samovar_downloads", "Downloads by status.", labels=["status"])
        for status in STATUSES:
            jobs.add_metric([status], counts.by_status.get(status, 0))
        failures = CounterMetricFamily("samovar_download_failures", "By what failed.", labels=["reason"])
        for reason, count in counts.failures.items():
            failures.add_metric([reason], count)
        left = "Bytes still to come of the downloads that run."
        fetched = "Bytes that came over the network, as downloads tell twice a second."
        yield from (jobs, failures)
        yield GaugeMetricFamily("samovar_download_left_bytes", left, value=counts.left_bytes)
        yield CounterMetricFamily("samovar_download_fetched_bytes", fetched, value=counts.fetched_bytes)


class CacheCollector(LiveCollector):
    """What the cache knows of models in memory."""

    def __init__(self, stats: Callable[[], CacheStats], loaded: Callable[[], Sequence[LoadedModel]]) -> None:
        self._stats = stats
        self._loaded = loaded

    def collect(self) -> Iterator[Metric]:
        """What Prometheus gets."""
        stats, models = self._stats(), self._loaded()
        for name, text, value in (
            ("samovar_cache_hits", "Requests that found their model ready.", stats.cache_hits),
            ("samovar_cache_misses", "Requests that had to wait for a load.", stats.cache_misses),
            ("samovar_requests_served", "Requests that were served.", stats.total_requests_served),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, text, read in _MODEL_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["model", "device", "state"])
            for key, amount in _summed(models, read).items():
                gauge.add_metric(list(key), amount)
            yield gauge
        budget = GaugeMetricFamily("samovar_memory_budget_bytes", "What models may take.", labels=["device"])
        used = GaugeMetricFamily("samovar_memory_used_bytes", "What models take of it.", labels=["device"])
        for memory in stats.memory:
            budget.add_metric([memory.device], memory.budget_bytes)
            used.add_metric([memory.device], memory.used_bytes)
        yield from (budget, used)


_MODEL_GAUGES: tuple[tuple[str, str, Callable[[LoadedModel], int]], ...] = (
    ("samovar_model_memory_bytes", "Memory that a model is counted with.", lambda m: m.memory_bytes),
    ("samovar_model_requests_running", "Requests that use a model.", lambda m: m.in_flight),
    ("samovar_model_requests_waiting", "Requests that wait for a model.", lambda m: m.queued),
)


def _summed(
    models: Sequence[LoadedModel], read: Callable[[LoadedModel], int]
) -> dict[tuple[str, str, str], int]:
    """By labels: models that share the label of the others are added up."""
    sums: dict[tuple[str, str, str], int] = {}
    for model in models:
        key = (label(model.model), model.device, model.state)
        sums[key] = sums.get(key, 0) + read(model)
    return sums
