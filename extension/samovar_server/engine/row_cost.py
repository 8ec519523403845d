"""What a draft's row costs in a step that only decodes, followed from the times that steps take.

It depends on the model, the machine and the quantisation, from next to nothing where a step waits for the
weights to all of a step's time where it waits for the products. Only steps with as many sequences are
compared: the row of a sequence more shares a call of attention with others, a draft's often has its own.
Pure functions of those times.
"""

from __future__ import annotations

from dataclasses import dataclass

EXPECTED_SHARE = 0.08
"""Of a step with one row: what a row is taken to cost before steps have shown it."""
EXPECTED_SPREAD = 2.0
"""For how much evidence that stands, as a sum of squared differences in rows."""
LEAST_SHARE = 0.2
"""Of the expected cost: steps never show that rows cost nothing."""
MEMORY = 0.97
"""The weight of a step against that of the next one."""
OUTLIER = 2.0
"""How many times as long as it should take a step counts for at most: what holds up one step is no row's."""


@dataclass(frozen=True, slots=True)
class RowCost:
    """A line through the last steps' rows and seconds, by least squares that forget.

    `rows` and `seconds` are means over the last steps, which have the `weight`, with so many `sequences`;
    `spread` and `covariance` are the sums of squares and products about the means, those before included.
    """

    sequences: int = 0
    weight: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    spread: float = 0.0
    covariance: float = 0.0

    def after(self, sequences: int, drafted: int, seconds: float) -> RowCost:
        """The cost after a step of `seconds` with a row for each of so many sequences and drafts' tokens."""
        rows = sequences + drafted
        if self.weight:
            seconds = min(seconds, OUTLIER * self.step(rows))
        weight = self.weight * MEMORY + 1 if sequences == self.sequences else 1.0
        more_rows, more_seconds = rows - self.rows, seconds - self.seconds
        before = 1 - 1 / weight
        return RowCost(
            sequences,
            weight,
            self.rows + more_rows / weight,
            self.seconds + more_seconds / weight,
            self.spread * MEMORY + before * more_rows**2,
            self.covariance * MEMORY + before * more_rows * more_seconds,
        )

    @property
    def row(self) -> float:
        """Seconds that one row more takes; 0 before the first step."""
        if not self.weight:
            return 0.0
        expected = EXPECTED_SHARE * self.seconds / (1 + EXPECTED_SHARE * (self.rows - 1))
        shown = (self.covariance + EXPECTED_SPREAD * expected) / (self.spread + EXPECTED_SPREAD)
        # Never more than if a step were nothing but its rows.
        return min(max(shown, LEAST_SHARE * expected), self.seconds / self.rows)

    def step(self, rows: int) -> float:
        """Seconds that a step of so many rows takes."""
        return self.seconds + self.row * (rows - self.rows)
