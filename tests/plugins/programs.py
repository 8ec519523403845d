"""Tests with a marker that need a program of the machine: a user without it is told so, CI fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Requirement:
    """What tests marked `marker` need; `hint` says what to do where it is missing."""

    marker: str
    hint: str
    missed: pytest.StashKey[int] = field(default_factory=pytest.StashKey[int], init=False)

    def check(self, item: pytest.Item, find: Callable[[], str | None]) -> None:
        """Before a test: skip it, or in CI fail it, when it needs the program and `find` finds none."""
        if item.get_closest_marker(self.marker) is None or find() is not None:
            return
        if os.environ.get("CI"):
            pytest.fail(self.hint, pytrace=False)
        item.config.stash[self.missed] = item.config.stash.get(self.missed, 0) + 1
        pytest.skip(self.hint)

    def tell(self, reporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """After all tests: say how many were skipped, loudly."""
        missed = config.stash.get(self.missed, 0)
        if missed:
            reporter.write_line(
                f"{missed} {self.marker} test(s) did not run: {self.hint}", yellow=True, bold=True
            )
