"""What the cache tells while it happens, to the event stream and whoever else listens."""

from __future__ import annotations

from collections.abc import Callable

from samovar_server.cache.clock import Clock, Timer
from samovar_server.cache.records import ModelChange, QueueLength, TokensCounted
from samovar_server.loader.plan import LoadPlan
from samovar_server.loader.status import WorkerStatus

Told = ModelChange | QueueLength | TokensCounted
Tell = Callable[[Told], None]

QUEUE_SECONDS = 0.2
"""Queues change with every request; their lengths are told at most once in this time."""


class Telling:
    """Passes changes on: those of models at once, the lengths of queues gathered."""

    def __init__(self, tell: Tell, clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._lengths: dict[str, QueueLength] = {}
        self._told: dict[str, QueueLength] = {}
        self._timer: Timer | None = None

    def change(self, change: ModelChange) -> None:
        """Tell of a model."""
        self._tell(change)

    def queue(self, length: QueueLength) -> None:
        """Tell the length of a queue, soon, if it is still another than the one told last."""
        self._lengths[length.cache_key] = length
        if self._timer is None:
            self._timer = self._clock.call_at(self._clock.now() + QUEUE_SECONDS, self._tell_lengths)

    def tokens(self, plan: LoadPlan, before: WorkerStatus, now: WorkerStatus) -> None:
        """Tell what a worker has computed between two answers."""
        self._tell(
            TokensCounted(
                plan.model.name,
                prompt_tokens=now.prompt_tokens - before.prompt_tokens,
                cached_tokens=now.cached_tokens - before.cached_tokens,
                generated_tokens=now.generated_tokens - before.generated_tokens,
                draft_tokens=now.draft_tokens - before.draft_tokens,
                accepted_tokens=now.accepted_tokens - before.accepted_tokens,
            )
        )

    def close(self) -> None:
        """Tell no lengths any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tell_lengths(self) -> None:
        self._timer = None
        lengths, self._lengths = self._lengths, {}
        for key, length in lengths.items():
            if length == self._told.get(key, QueueLength(key, 0, 0)):
                continue
            self._tell(length)
            if length.running or length.waiting:
                self._told[key] = length
            else:
                del self._told[key]
