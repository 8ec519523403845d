"""How long torch's threads wait for each other before they give up their core.

A kernel ends when all threads of its team have come. GCC's OpenMP, which torch brings on Linux, lets those
that come first go round in circles meanwhile, for milliseconds: that saves waking them for the next kernel.
But where another process wants the core, such as a second model that answers, the thread that all wait for
may be the one that waits for a core, and both models come to a stand (`tests/benchmarks/two_models.py`).
"""

from __future__ import annotations

from collections.abc import MutableMapping

TURNS, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
"""Environment variables of OpenMP, read when torch is imported."""
FEW_TURNS = "3000"
"""Some 40 µs, about as long as it is from one kernel to the next. By itself it would be 300,000."""


def wait_briefly(environ: MutableMapping[str, str]) -> None:
    """Have threads wait for as long only, unless `environ` says already how long."""
    if TURNS not in environ and POLICY not in environ:
        environ[TURNS] = FEW_TURNS
