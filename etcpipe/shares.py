"""Stores the probabilities of all classes from a model's answer until a policy needs them.

A verdict has one probability, that of its label. Rules of a policy may name several classes and ask
for their total probability. While such a policy acts, models store all probabilities here
(etcpipe/model.py), and the code that publishes verdicts looks them up (etcpipe/live/tap.py).
"""

import numpy as np

# Flows between answer and verdict: as many as the kernel's verdict map has by default.
SLOTS = 1 << 18


class Shares:
    """A table by flow id; several threads may add, of different flows.

    Ids are dense, so the place of a flow is `id % slots`; a newer flow with the same place
    replaces it.
    """

    def __init__(self, classes: int, slots: int = SLOTS) -> None:
        # pages of zeros that were never written take no memory
        self._shares = np.zeros((slots, classes), np.float32)
        self._flow_id = np.zeros(slots, np.uint64)

    def add(self, flow_id: np.ndarray, shares: np.ndarray) -> None:
        """Store (flows, classes) float32, calibrated probabilities; 0 for flows without answer."""
        places = self._places(flow_id)
        self._shares[places] = shares
        self._flow_id[places] = flow_id

    def of(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float32, 0 for flows that are not in the table."""
        places = self._places(flow_id)
        known = self._flow_id[places] == flow_id
        return np.where(known[:, np.newaxis], self._shares[places], np.float32(0))

    def _places(self, flow_id: np.ndarray) -> np.ndarray:
        return (flow_id % np.uint64(len(self._flow_id))).astype(np.int64)
