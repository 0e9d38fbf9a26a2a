"""Which flows go on: those that a stage is unsure of, as many of them as there is time for.

The share of offered flows that a stage can take follows from its speed and its backlog,

    share = min(1, 0.9 * speed / arrivals) * (1 - backlog / backlog_ms)

and the least sure flows go first. A batch that is still filling up is no backlog. A flow that is
held back keeps the answer that it has, marked as degraded.
"""

from collections.abc import Callable, Sequence
from math import exp

import numpy as np

from etcpipe.cascade.stages import Rule, Stage
from etcpipe.verdict import UNKNOWN

# The queue of a stage would grow without bound if all of its time were used.
UTILISATION = 0.9
# Rates cover the last tenth of a second: much longer than a batch, shorter than a burst.
RATE_WINDOW_NS = 100_000_000
# The speed covers about the last ten batches.
SPEED_MEMORY = 0.9
# Bins of probability; a probability of a thousand rows ago counts 1/e.
BINS = 256
ROWS_REMEMBERED = 1000

Decide = Callable[[np.ndarray, np.ndarray], np.ndarray]


def decider(rule: Rule, classes: Sequence[str]) -> Decide:
    """Return a function of labels (-1: "unknown") and probabilities: which answers are sure."""
    if rule.kind == "target":
        return TargetShare(rule.share, rule.probability)
    thresholds = rule.thresholds(classes)
    # label -1 of an early stage stands for the class "unknown" if the model has it
    unknown = thresholds[classes.index(UNKNOWN)] if UNKNOWN in classes else rule.probability
    by_label = np.append(thresholds, np.float32(unknown))
    return lambda label, probability: probability >= by_label[label]


class LowestShare:
    """The running quantile of probabilities: below it lay a share of the recent flows."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS)
        self._new: list[np.ndarray] = []  # probabilities that are not yet counted

    def add(self, probability: np.ndarray) -> None:
        """Count the probabilities of some flows."""
        self._new.append(probability)
        if len(self._new) > BINS:
            self._count()

    @property
    def flows(self) -> float:
        """Number of flows that are remembered."""
        self._count()
        return float(self._counts.sum())

    def below(self, share: float) -> float:
        """Return the quantile, interpolated between two bins."""
        self._count()
        wanted = share * self._counts.sum()
        until = np.cumsum(self._counts)
        i = int(np.searchsorted(until, wanted))
        if i >= BINS:
            return 1.0
        before = until[i] - self._counts[i]
        part = (wanted - before) / self._counts[i] if self._counts[i] else 0.0
        return float((i + part) / BINS)

    def _count(self) -> None:
        if not self._new:
            return
        sizes = [len(probability) for probability in self._new]
        until = np.cumsum(sizes)
        weight = np.repeat(np.exp((until - until[-1]) / ROWS_REMEMBERED), sizes)
        bins = np.minimum((np.concatenate(self._new) * BINS).astype(np.int64), BINS - 1)
        self._counts *= exp(-until[-1] / ROWS_REMEMBERED)
        self._counts += np.bincount(bins, weight, BINS)
        self._new.clear()


class TargetShare:
    """Is sure of all but a given share of the flows, however their probabilities shift."""

    # With fewer flows than this, the fitted threshold is more reliable.
    FLOWS_LEAST = 100

    def __init__(self, share: float, probability: float):
        self._share, self._probability = share, probability
        self._seen = LowestShare()

    def __call__(self, label: np.ndarray, probability: np.ndarray) -> np.ndarray:
        self._seen.add(probability)
        enough = self._seen.flows >= self.FLOWS_LEAST
        return probability >= (self._seen.below(self._share) if enough else self._probability)


class Load:
    """How many rows a stage can take, by its speed and by what is offered to it."""

    def __init__(self, stage: Stage):
        self._batch, self._backlog_ns = stage.batch, stage.backlog_ms * 1e6
        self._done = self._took_ns = 0.0
        self._offered, self._at_ns = 0.0, 0
        self._seen = LowestShare()

    @property
    def speed(self) -> float:
        """Rows per nanosecond on large batches; 0 while that is not known."""
        return self._done / self._took_ns if self._took_ns else 0.0

    def finished(self, rows: int, took_ns: int) -> None:
        """Count a batch, unless it is too small to show the stage's speed."""
        if 2 * rows < self._batch:
            return
        self._done = SPEED_MEMORY * self._done + rows
        self._took_ns = SPEED_MEMORY * self._took_ns + max(took_ns, 1)

    def room(self, waiting: int, room: int) -> int:
        """Return how many rows may come, by the room in the queue and by time.

        Args:
            waiting: rows in the queue.
            room: that the queue has.
        """
        if not self.speed:
            return room
        most = max(self._batch, int(self.speed * self._backlog_ns))
        return max(0, min(room, most - waiting))

    def share(self, waiting: int, offered: int, now_ns: int) -> float:
        """Return the share of the offered rows that can be taken now."""
        passed = max(now_ns - self._at_ns, 0)
        self._offered = self._offered * exp(-passed / RATE_WINDOW_NS) + offered
        self._at_ns = now_ns
        if not self.speed:
            return 1.0
        capacity = UTILISATION * self.speed * RATE_WINDOW_NS / self._offered
        backlog = max(0, waiting - self._batch) / (self.speed * self._backlog_ns)
        return min(1.0, capacity) * max(0.0, 1.0 - backlog)

    def choose(self, probability: np.ndarray, waiting: int, room: int, now_ns: int) -> np.ndarray:
        """Return (rows,) bool, the rows that a later stage takes: the least sure ones.

        Args:
            probability: (rows,) of their present answers.
            waiting, room: as for room().
        """
        self._seen.add(probability)
        share = self.share(waiting, len(probability), now_ns)
        taken = np.ones(len(probability), bool)
        if share < 1:
            taken = probability <= self._seen.below(share)
        return least_sure(probability, taken, self.room(waiting, room))


def least_sure(probability: np.ndarray, among: np.ndarray, most: int) -> np.ndarray:
    """Return (rows,) bool, at most `most` of the rows `among`, the least probable ones."""
    if len(among) <= most or np.count_nonzero(among) <= most:
        return among
    order = np.argsort(np.where(among, probability, 2.0), kind="stable")
    chosen = np.zeros(len(probability), bool)
    chosen[order[:most]] = True
    return chosen
