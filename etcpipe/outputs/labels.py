"""Labels of flows from verdict to end, in bounded memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etcpipe.verdict import UNKNOWN, VerdictBatch

# Flows that are remembered: 18 MB. Ids are dense, so that one forgets the one that began
# this many flows earlier.
SIZE = 1 << 20


@dataclass(frozen=True)
class Ended:
    """Flows that ended, with what they were found to be.

    Attributes:
        records: (flows,) FLOW_RECORD.
        name: (flows,) index into names; 0 is "unknown" and no verdict.
        probability: (flows,) float32, that of the verdict; 0 where there is none.
        names: of the classes.
    """

    records: np.ndarray
    name: np.ndarray
    probability: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.records)


class Labels:
    """Remembers the verdict of each flow; one thread tells, another one asks."""

    def __init__(self, size: int = SIZE):
        self.names = [UNKNOWN]
        self._flow_id = np.zeros(size, np.uint64)
        self._name = np.zeros(size, np.uint16)
        self._probability = np.zeros(size, np.float32)
        self._maps: dict[tuple[str, ...], np.ndarray] = {}

    def add(self, verdicts: VerdictBatch) -> None:
        """Remember a batch."""
        if verdicts.classes not in self._maps:
            self._maps[verdicts.classes] = self._map(verdicts.classes)
        places = self._places(verdicts.flows.flow_id)
        self._name[places] = self._maps[verdicts.classes][verdicts.label]
        self._probability[places] = verdicts.probability
        self._flow_id[places] = verdicts.flows.flow_id

    def of(self, records: np.ndarray) -> Ended:
        """Return (flows,) FLOW_RECORD with the names of their classes."""
        flow_id = records["state"]["flow_id"]
        places = self._places(flow_id)
        known = self._flow_id[places] == flow_id
        name = np.where(known, self._name[places], 0)
        return Ended(records, name, np.where(known, self._probability[places], 0), self.names)

    def _places(self, flow_id: np.ndarray) -> np.ndarray:
        return (flow_id % np.uint64(len(self._flow_id))).astype(np.int64)

    def _map(self, classes: tuple[str, ...]) -> np.ndarray:
        """Return the index into names of each label of a model, of -1 at the end."""
        for name in classes:
            if name not in self.names:
                self.names.append(name)
        return np.array([self.names.index(name) for name in (*classes, UNKNOWN)], np.uint16)
