"""How many rows a turn may judge, so that their answers come within the cascade's latency_ms.

A row that arrives at the beginning of a turn waits for its end and is answered at the end of the
next turn, so no turn may take longer than half of that time. The time of a turn is predicted from
earlier turns, including all the work to place, judge and answer its rows: a fixed part for each
batch and a part for each row. Some turns take longer than predicted. So the planned length of turns
is adapted to the share of rows that were late; one row in four hundred may be.
"""

from math import exp, inf

# Planned share of the time that two turns may take: the largest and the smallest.
TURNS_SHARE, TURNS_SHARE_LEAST = 0.9, 0.3
# Share of rows that may be late, and how much one late row reduces the planned share.
LATE_MOST, LATE_STEP = 0.0025, 0.004
# The line is fitted to about the last two hundred turns: single small ones say little.
TURNS_REMEMBERED = 200
# Batches of nearly the same size determine no line.
SPREAD_LEAST = 0.2
# Least time of a row, as a share of the mean time for each row of a batch.
ROW_LEAST = 0.1
# Outliers are limited to this multiple of the prediction, once it is based on enough batches.
SLOW_MOST, BATCHES_LEAST = 2, 10
# Always taken, so that after a slow moment there are new measurements.
ROWS_LEAST = 16


class BatchCost:
    """The time of a batch: a line through sizes and times, weighted towards recent ones.

    Attributes:
        row_ns: time of each row; 0 while it is not known.
        fixed_ns: time of the batch without its rows.
    """

    def __init__(self) -> None:
        self.row_ns = self.fixed_ns = 0.0
        self._sums = [0.0] * 5

    def add(self, rows: float, took_ns: float) -> None:
        """Count a batch."""
        if self._sums[0] >= BATCHES_LEAST:
            took_ns = min(took_ns, SLOW_MOST * (self.fixed_ns + self.row_ns * rows))
        keep = 1 - 1 / TURNS_REMEMBERED
        new = (1.0, rows, rows * rows, took_ns, rows * took_ns)
        self._sums = [keep * old + one for old, one in zip(self._sums, new, strict=True)]
        weight, *sums = self._sums
        mean, square, took, product = (one / weight for one in sums)
        variance = square - mean * mean
        if variance > (SPREAD_LEAST * mean) ** 2:
            slope = (product - mean * took) / variance
            self.row_ns = max(slope, ROW_LEAST * took / mean)
        self.row_ns = min(self.row_ns, took / mean)
        self.fixed_ns = took - self.row_ns * mean


class TurnBudget:
    """How many rows fit into the running turn."""

    def __init__(self, latency_ms: float, stages: int) -> None:
        """Begin, for turns with one batch of each stage."""
        self._latency_ns, self._share = latency_ms * 1e6, TURNS_SHARE
        self._before_ns = 0.0  # time of the previous turn
        self._stages = stages
        self._cost = BatchCost()
        self._judged = self._batches = 0  # of this turn so far
        self._is_first = True

    @property
    def planned_ns(self) -> float:
        """The time that a turn may take."""
        return self._share * self._latency_ns / 2

    @property
    def rows(self) -> float:
        """Rows that fit into a turn; infinite while their time is not known.

        If the fixed part is more than half of a turn, the turn is made twice as long as that part:
        shorter turns would spend most of the processor's time on the fixed part.
        """
        if not self._cost.row_ns:
            return inf
        fixed_ns = self._stages * self._cost.fixed_ns
        left_ns = max(self.planned_ns, 2 * fixed_ns) - fixed_ns
        return max(left_ns / self._cost.row_ns, ROWS_LEAST)

    def judged(self, rows: int) -> None:
        """Count a batch."""
        self._judged += rows
        self._batches += 1

    def turned(self, took_ns: int) -> None:
        """Count the turn that ends here, except the first one, which also initialises."""
        if self._batches and not self._is_first:
            self._cost.add(self._judged / self._batches, took_ns / self._batches)
            self._plan(took_ns)
        self._is_first &= not self._batches
        self._judged = self._batches = 0

    def _plan(self, took_ns: int) -> None:
        """Plan shorter turns if rows were late, else longer ones.

        Rows arrived at any time of the previous turn and were answered at the end of this one.
        """
        over_ns = self._before_ns + took_ns - self._latency_ns
        late = min(max(over_ns / self._before_ns, 0.0), 1.0) if self._before_ns else 0.0
        step = LATE_STEP * self._judged * (LATE_MOST - late)
        self._share = min(max(self._share * exp(step), TURNS_SHARE_LEAST), TURNS_SHARE)
        self._before_ns = took_ns

    def room(self, waiting: int, room: int) -> int:
        """Return how many more rows may be added.

        Args:
            waiting: rows in the queues of this turn.
            room: that the stage's queue has.
        """
        return int(max(0.0, min(room, self.rows - self._judged - waiting)))
