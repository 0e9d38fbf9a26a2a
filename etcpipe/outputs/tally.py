"""What a running attach counts of its verdicts and flows, in bounded memory."""

import threading
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from etcpipe.layout import END_REASONS
from etcpipe.outputs.histogram import BATCHES, LATENCIES_S, PROBABILITIES, Histogram
from etcpipe.verdict import EVENT_EARLY, EVENTS, SOURCES, UNKNOWN, VerdictBatch

# Live batches are small: they are added up together, some thousand verdicts at a time.
PENDING_MAX = 4096
STAGES = [str(stage) for stage in range(256)]
SPANS = ("wait", "queue", "infer")


class _Batch(NamedTuple):
    """Of a VerdictBatch what is counted; its rows, which are large, need not stay."""

    classes: tuple[str, ...]
    event: np.ndarray
    label: np.ndarray
    source: np.ndarray
    stage: np.ndarray
    probability: np.ndarray
    spans_ns: np.ndarray  # (3, flows)


class Tally:
    """Adds up verdicts by class, source, stage and time, and ended flows by reason.

    An early verdict that another one will follow counts as an event, and as nothing else.
    Any thread may call any method.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[_Batch] = []
        self._n_pending = 0
        self._classes: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._stages: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._probability = Histogram(PROBABILITIES)
        self._latency = {name: Histogram(LATENCIES_S) for name in (*SPANS, "total")}
        self._batches = Histogram(BATCHES)

    def add(self, verdicts: VerdictBatch) -> None:
        """Count a batch of verdicts."""
        if not len(verdicts):
            return
        final = verdicts.event != EVENT_EARLY
        batch = _Batch(
            verdicts.classes,
            verdicts.event,
            verdicts.label[final],
            verdicts.source[final],
            verdicts.stage[final],
            verdicts.probability[final],
            np.array([getattr(verdicts, f"{name}_ns")[final] for name in SPANS]),
        )
        with self._lock:
            self._pending.append(batch)
            self._n_pending += len(verdicts)
            if self._n_pending >= PENDING_MAX:
                self._add_up()

    def add_ended(self, records: np.ndarray) -> None:
        """Count (n,) FLOW_RECORD of flows that ended; interim ones are left out."""
        counts = np.bincount(records["reason"], minlength=len(END_REASONS)).tolist()
        with self._lock:
            for reason, n in zip(END_REASONS, counts, strict=True):
                if n and reason != "active":
                    self._ended[reason] += n

    def asdict(self) -> dict[str, Any]:
        """Return all that was counted; the classes that were seen, the most frequent first."""
        with self._lock:
            self._add_up()
            return {
                "verdicts": dict(self._classes.most_common()),
                "sources": dict(self._sources),
                "stages": dict(self._stages),
                "events": dict(self._events),
                "ended": dict(self._ended),
                "probability": self._probability.asdict(),
                "latency_s": {name: h.asdict() for name, h in self._latency.items()},
                "batch_flows": self._batches.asdict(),
            }

    def _add_up(self) -> None:
        batches, self._pending, self._n_pending = self._pending, [], 0
        if not batches:
            return
        self._batches.add(np.array([len(batch.event) for batch in batches]))
        _count(self._events, EVENTS, np.concatenate([batch.event for batch in batches]))
        for classes, same in groupby(batches, key=lambda batch: batch.classes):
            labels = np.concatenate([batch.label for batch in same])
            _count(self._classes, (*classes, UNKNOWN), labels)  # -1 is the last one
        _count(self._sources, SOURCES, np.concatenate([batch.source for batch in batches]))
        _count(self._stages, STAGES, np.concatenate([batch.stage for batch in batches]))
        self._probability.add(np.concatenate([batch.probability for batch in batches]))
        spans_s = np.concatenate([batch.spans_ns for batch in batches], axis=1) / 1e9
        for name, spans in zip(SPANS, spans_s, strict=True):
            self._latency[name].add(spans)
        self._latency["total"].add(spans_s.sum(axis=0))


def _count(counter: Counter[str], names: Sequence[str], values: np.ndarray) -> None:
    found, counts = np.unique(values, return_counts=True)
    for value, n in zip(found.tolist(), counts.tolist(), strict=True):
        counter[names[value]] += n
