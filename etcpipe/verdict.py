"""Verdicts: a model's answers on flows as a structure of arrays, one row for each flow."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from etcpipe.batch import FlowBatch

UNKNOWN = "unknown"

# How a verdict came about; the index is stored in VerdictBatch.source.
SOURCES = ("model", "timeout", "degraded", "unknown", "kernel")
SOURCE_MODEL, SOURCE_TIMEOUT, SOURCE_DEGRADED, SOURCE_UNKNOWN, SOURCE_KERNEL = range(len(SOURCES))

# Kinds of verdicts; the index is stored in VerdictBatch.event. Each flow has exactly one verdict
# that is not early. It is "revised" if an earlier, early one had another label.
EVENTS = ("verdict", "early", "revised")
EVENT_VERDICT, EVENT_EARLY, EVENT_REVISED = range(len(EVENTS))


class Answers(NamedTuple):
    """A model's answers on flows, columns as in VerdictBatch.

    Attributes:
        took_ns: time for all of them.
    """

    label: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray
    packets_used: np.ndarray
    took_ns: int


@dataclass(frozen=True)
class VerdictBatch:
    """One verdict for each flow.

    Attributes:
        flows: the model's input rows, in the same order.
        records: (flows,) FLOW_STATE, the flow so far (live) or whole (offline);
            flow_id 0 where the tracker no longer knows the flow.
        classes: names of the classes, in the order of the model's columns, then of its families
            (etcpipe/families.py).
        label: (flows,) int16, index into classes, -1 is "unknown".
        probability: (flows,) float32, calibrated, of the label (of the best class if unknown).
        runner_up: (flows,) int16, index of the second class, of the best one if the label is a
            family; -1 if there is none.
        stage: (flows,) uint8, stage of the cascade that decided, 0 for a single model.
        depth: (flows,) uint16, packets that the stage waits for.
        event: (flows,) uint8, index into EVENTS.
        packets_used: (flows,) uint16, packets that the model used.
        source: (flows,) uint8, index into SOURCES.
        wait_ns: (flows,) uint64, from the flow's first counted packet to a complete row.
        queue_ns: (flows,) uint64, from then to the start of inference; for a cascade all other
            time until the verdict; 0 offline.
        infer_ns: (flows,) uint64, views and inference, this row's share of its batch.
        models: name@digest of the model of each stage.
    """

    flows: FlowBatch
    records: np.ndarray
    classes: tuple[str, ...]
    label: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray
    stage: np.ndarray
    depth: np.ndarray
    event: np.ndarray
    packets_used: np.ndarray
    source: np.ndarray
    wait_ns: np.ndarray
    queue_ns: np.ndarray
    infer_ns: np.ndarray
    models: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    def head(self, n: int) -> "VerdictBatch":
        """Return the first n rows."""
        return self.select(slice(n))

    def select(self, rows: slice | np.ndarray) -> "VerdictBatch":
        """Return some rows; a slice is not copied."""
        whole = ("flows", "classes", "models")
        columns = {name: c[rows] for name, c in vars(self).items() if name not in whole}
        return replace(self, flows=self.flows.select(rows), **columns)

    def final(self) -> "VerdictBatch":
        """Return the final verdicts."""
        early = self.event == EVENT_EARLY
        return self.select(~early) if early.any() else self

    def name(self, i: int) -> str:
        """Return the label of row i as text."""
        return self.classes[self.label[i]] if self.label[i] >= 0 else UNKNOWN
