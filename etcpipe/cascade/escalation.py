"""Which flows go on: those that a stage is unsure of, and of these as many as there is time for.

Of a stage's speed and the flows that are passed on to it follows the share that it can take,

    share = min(1, 0.9 * speed / arrivals) * (1 - backlog / backlog_ms)

and the flows that are least sure go first; a batch that waits is no backlog. Whoever is held back
keeps the answer that he has; it is marked as degraded.
"""

from collections.abc import Callable, Sequence
from math import exp

import numpy as np

from etcpipe.cascade.stages import Rule, Stage
from etcpipe.verdict import UNKNOWN

# A stage's queue would grow without bound if all of its time were given away.
UTILISATION = 0.9
# Rates are of the last tenth of a second: long against a batch, short against a burst.
RATE_WINDOW_NS = 100_000_000
# Speed is of the last ten batches or so.
SPEED_MEMORY = 0.9
# Probabilities are counted in so many bins, and one of a thousand rows ago counts 1/e.
BINS = 256
ROWS_REMEMBERED = 1000

Decide = Callable[[np.ndarray, np.ndarray], np.ndarray]


def decider(rule: Rule, classes: Sequence[str]) -> Decide:
    """Return what says of labels (-1 is "unknown") and probabilities which are sure."""
    if rule.kind == "target":
        return TargetShare(rule.share, rule.probability)
    thresholds = rule.thresholds(classes)
    # the label -1 of an early stage is the class "unknown", where the model has one
    unknown = thresholds[classes.index(UNKNOWN)] if UNKNOWN in classes else rule.probability
    by_label = np.append(thresholds, np.float32(unknown))
    return lambda label, probability: probability >= by_label[label]


class LowestShare:
    """The probability below which a share of the flows lay lately."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS)
        self._new: list[np.ndarray] = []  # probabilities that are not counted yet

    def add(self, probability: np.ndarray) -> None:
        """Count some flows."""
        self._new.append(probability)
        if len(self._new) > BINS:
            self._count()

    @property
    def flows(self) -> float:
        """Flows that it remembers."""
        self._count()
        return float(self._counts.sum())

    def below(self, share: float) -> float:
        """Return the probability; between two bins it is interpolated."""
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
    """Sure of all but a share of the flows, whatever their probabilities are today."""

    # Below so many flows the threshold that was fitted knows more.
    FLOWS_LEAST = 100

    def __init__(self, share: float, probability: float):
        self._share, self._probability = share, probability
        self._seen = LowestShare()

    def __call__(self, label: np.ndarray, probability: np.ndarray) -> np.ndarray:
        self._seen.add(probability)
        enough = self._seen.flows >= self.FLOWS_LEAST
        return probability >= (self._seen.below(self._share) if enough else self._probability)


class Load:
    """How much a stage can take, from what it did and what is asked of it."""

    def __init__(self, stage: Stage):
        self._batch, self._backlog_ns = stage.batch, stage.backlog_ms * 1e6
        self._done = self._took_ns = 0.0
        self._offered, self._at_ns = 0.0, 0
        self._seen = LowestShare()

    @property
    def speed(self) -> float:
        """Rows a nanosecond while it works on large batches; 0 if that is not known yet."""
        return self._done / self._took_ns if self._took_ns else 0.0

    def finished(self, rows: int, took_ns: int) -> None:
        """Count a batch, unless it is too small to say what the stage can do."""
        if 2 * rows < self._batch:
            return
        self._done = SPEED_MEMORY * self._done + rows
        self._took_ns = SPEED_MEMORY * self._took_ns + max(took_ns, 1)

    def room(self, waiting: int, room: int) -> int:
        """Return how many rows may come: what the queue has room for, and time.

        Args:
            waiting: rows in the queue.
            room: that the queue has.
        """
        if not self.speed:
            return room
        most = max(self._batch, int(self.speed * self._backlog_ns))
        return max(0, min(room, most - waiting))

    def share(self, waiting: int, offered: int, now_ns: int) -> float:
        """Return which share of the rows that are offered can be taken now."""
        passed = max(now_ns - self._at_ns, 0)
        self._offered = self._offered * exp(-passed / RATE_WINDOW_NS) + offered
        self._at_ns = now_ns
        if not self.speed:
            return 1.0
        capacity = UTILISATION * self.speed * RATE_WINDOW_NS / self._offered
        backlog = max(0, waiting - self._batch) / (self.speed * self._backlog_ns)
        return min(1.0, capacity) * max(0.0, 1.0 - backlog)

    def choose(self, probability: np.ndarray, waiting: int, room: int, now_ns: int) -> np.ndarray:
        """Return (rows,) bool, which rows a later stage takes: the least sure ones.

        Args:
            probability: (rows,) of the answers that they have.
            waiting, room: as for room().
        """
        self._seen.add(probability)
        share = self.share(waiting, len(probability), now_ns)
        taken = np.ones(len(probability), bool)
        if share < 1:
            taken = probability <= self._seen.below(share)
        return least_sure(probability, taken, self.room(waiting, room))


def least_sure(probability: np.ndarray, among: np.ndarray, most: int) -> np.ndarray:
    """Return (rows,) bool, at most so many rows of those among, the least probable ones."""
    if len(among) <= most or np.count_nonzero(among) <= most:
        return among
    order = np.argsort(np.where(among, probability, 2.0), kind="stable")
    chosen = np.zeros(len(probability), bool)
    chosen[order[:most]] = True
    return chosen
