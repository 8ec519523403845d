"""When a model that keeps failing may be loaded again: a pure function of its failures and the time."""

from __future__ import annotations

from dataclasses import dataclass

FREE_FAILURES = 2
"""After so many in a row the model is still loaded at once: a crash may have been bad luck."""

FIRST_SECONDS = 1.0
"""The wait after the next one; it doubles from failure to failure."""

LONGEST_SECONDS = 60.0
"""The longest wait: what was amiss may have been set right meanwhile."""


@dataclass(frozen=True, slots=True)
class Failures:
    """How often in a row a model has failed, loading or crashing, and when it did so last."""

    count: int
    last: float

    def and_one_at(self, now: float) -> Failures:
        """These and another one."""
        return Failures(self.count + 1, now)


NO_FAILURES = Failures(0, 0.0)


def wait_seconds(failures: Failures, now: float) -> float:
    """How long a request has to wait, from now on, until the model may be loaded again; 0: not at all."""
    if failures.count <= FREE_FAILURES:
        return 0.0
    # The exponent is bounded, since a model may fail for years.
    pause = min(FIRST_SECONDS * 2.0 ** min(failures.count - FREE_FAILURES - 1, 16), LONGEST_SECONDS)
    return max(failures.last + pause - now, 0.0)
