"""Verdicts: what a model says of flows, as a structure of arrays, one row a flow."""

from dataclasses import dataclass, replace

import numpy as np

from etcpipe.batch import FlowBatch

UNKNOWN = "unknown"

# How a verdict came about; the index is stored in VerdictBatch.source.
SOURCES = ("model", "timeout", "degraded", "unknown")
SOURCE_MODEL, SOURCE_TIMEOUT, SOURCE_DEGRADED, SOURCE_UNKNOWN = range(len(SOURCES))


@dataclass(frozen=True)
class VerdictBatch:
    """One verdict a flow.

    Attributes:
        flows: the model's input rows, in the same order.
        records: (flows,) FLOW_STATE, the flow so far (live) or whole (offline);
            flow_id 0 where the tracker no longer knows the flow.
        classes: names of the classes, in the order of the model's columns.
        label: (flows,) int16, index into classes, -1 is "unknown".
        probability: (flows,) float32, calibrated, of the label (of the best class if unknown).
        runner_up: (flows,) int16, index of the second class, -1 if there is none.
        packets_used: (flows,) uint16, packets that the model saw.
        source: (flows,) uint8, index into SOURCES.
        wait_ns: (flows,) uint64, from the flow's first counted packet to a complete row.
        queue_ns: (flows,) uint64, from then to the start of inference; 0 offline.
        infer_ns: (flows,) uint64, views and inference, this row's share of its batch.
        model: name@digest of the model.
    """

    flows: FlowBatch
    records: np.ndarray
    classes: tuple[str, ...]
    label: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray
    packets_used: np.ndarray
    source: np.ndarray
    wait_ns: np.ndarray
    queue_ns: np.ndarray
    infer_ns: np.ndarray
    model: str

    def __len__(self) -> int:
        return len(self.label)

    def head(self, n: int) -> "VerdictBatch":
        """Return the first n rows."""
        whole = ("flows", "classes", "model")
        columns = {name: c[:n] for name, c in vars(self).items() if name not in whole}
        flows = FlowBatch(**{name: column[:n] for name, column in vars(self.flows).items()})
        return replace(self, flows=flows, **columns)

    def name(self, i: int) -> str:
        """Return the label of row i as text."""
        return self.classes[self.label[i]] if self.label[i] >= 0 else UNKNOWN
