"""Whether a worker is well, judged by what it answers when asked: pure functions.

A process can live and be lost: its HTTP side may be stuck, so that it answers nothing, or its engine, so
that it answers and makes no step. The second shows only where an engine counts its steps, and is given
much longer: one step of a large model on a CPU may take a minute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from samovar_server.loader.status import WorkerStatus

STALL_FACTOR = 10.0
"""How many times as long an engine may take for a step as a worker for an answer."""

GROWTH_TOLERANCE = 1.02
"""Memory that a worker may take beyond what it is counted with before that is corrected and told."""


@dataclass(frozen=True, slots=True)
class Health:
    """When a worker answered last, and when its engine was last seen to have gone on."""

    answered_at: float
    moved_at: float
    steps: int | None = None


def observe(health: Health, status: WorkerStatus | None, now: float) -> Health:
    """The health after a question that `status` answers; None: no answer came."""
    if status is None:
        return health
    rests = status.steps is None or not status.running
    if rests or status.steps != health.steps:
        return Health(now, now, status.steps)
    return replace(health, answered_at=now)


def ailment(health: Health, now: float, patience: float) -> str | None:
    """How a worker with requests is lost, to follow its name in a sentence; None: it is not.

    `patience` is in seconds.
    """
    if now - health.answered_at >= patience:
        return f"has not answered for {now - health.answered_at:.0f} s and was ended as hung"
    if now - health.moved_at >= patience * STALL_FACTOR:
        return f"has made no step for {now - health.moved_at:.0f} s and was ended as hung"
    return None


def has_grown(status: WorkerStatus | None, counted_bytes: int) -> bool:
    """Whether a worker takes more than it is counted with."""
    if status is None or status.memory_bytes is None:
        return False
    return status.memory_bytes > counted_bytes * GROWTH_TOLERANCE
