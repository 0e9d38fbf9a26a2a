"""How many rows a turn may judge, so that their answers come within the cascade's latency_ms.

A row comes in the middle of a turn, waits for its end, and is answered at the end of the next
one: no turn may take longer than half of that time. What a turn takes is known from those before
it, with all that is done to place, judge and answer its rows: a part for each of its batches, and
one for each row. Some turns take longer than that says. How long turns are planned follows from
how many rows were late for it: one of four hundred may be.
"""

from math import exp, inf

# Of the time that a row may wait for two turns, what they are planned to take: at most, and least.
TURNS_SHARE, TURNS_SHARE_LEAST = 0.9, 0.3
# Rows that may be late, and what one of them takes off that share.
LATE_MOST, LATE_STEP = 0.0025, 0.004
# The line is through the last two hundred turns or so: what single small ones take says little.
TURNS_REMEMBERED = 200
# No line is seen in batches of next to the same size.
SPREAD_LEAST = 0.2
# A row takes at least this part of what a batch of mean size takes for each of its rows.
ROW_LEAST = 0.1
# A slow moment counts as so many times what the line says, once it is of enough batches.
SLOW_MOST, BATCHES_LEAST = 2, 10
# So many are always taken: a slow moment must not be the last thing that is known of turns.
ROWS_LEAST = 16


class BatchCost:
    """What a batch takes: a line through sizes and times, the newest ones first.

    Attributes:
        row_ns: of each row; 0 if it is not known yet.
        fixed_ns: of the batch.
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
    """How many rows fit into the turn that runs."""

    def __init__(self, latency_ms: float, stages: int) -> None:
        """Make one for turns that have a batch of each stage."""
        self._latency_ns, self._share = latency_ms * 1e6, TURNS_SHARE
        self._before_ns = 0.0  # what the turn before took
        self._stages = stages
        self._cost = BatchCost()
        self._judged = self._batches = 0  # in this turn so far
        self._is_first = True

    @property
    def planned_ns(self) -> float:
        """What a turn may take."""
        return self._share * self._latency_ns / 2

    @property
    def rows(self) -> float:
        """Rows that fit into a turn; infinite while that is not known.

        Where the fixed part is more than half of a turn, a turn is twice as long as it: shorter
        ones would spend most of the processor on beginning.
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
        """Count the turn that ends here; the first one, which makes what others use, does not."""
        if self._batches and not self._is_first:
            self._cost.add(self._judged / self._batches, took_ns / self._batches)
            self._plan(took_ns)
        self._is_first &= not self._batches
        self._judged = self._batches = 0

    def _plan(self, took_ns: int) -> None:
        """Plan shorter turns if rows were late, longer ones if none were.

        Rows came at any time of the turn before, and were answered at the end of this one.
        """
        over_ns = self._before_ns + took_ns - self._latency_ns
        late = min(max(over_ns / self._before_ns, 0.0), 1.0) if self._before_ns else 0.0
        step = LATE_STEP * self._judged * (LATE_MOST - late)
        self._share = min(max(self._share * exp(step), TURNS_SHARE_LEAST), TURNS_SHARE)
        self._before_ns = took_ns

    def room(self, waiting: int, room: int) -> int:
        """Return how many more rows may come.

        Args:
            waiting: rows in the queues of this turn.
            room: that the stage's queue has.
        """
        return int(max(0.0, min(room, self.rows - self._judged - waiting)))
