"""Probabilities of all classes, from a model's answer until a policy asks for them.

A verdict carries one probability, that of its label. Rules of a policy may name several classes and
ask how probable these are together, so while such a policy acts, models leave all of them here
(etcpipe/model.py), and who publishes verdicts takes them by the flow (etcpipe/live/tap.py).
"""

import numpy as np

# Flows between an answer and the verdict: as many as the kernel remembers verdicts of by default.
SLOTS = 1 << 18


class Shares:
    """A table by flow id; several threads may add, of different flows.

    Ids are dense, so that a flow's place is `id % slots`; it is lost to one that began a whole
    table later.
    """

    def __init__(self, classes: int, slots: int = SLOTS) -> None:
        # zeros that were never written take no memory
        self._shares = np.zeros((slots, classes), np.float32)
        self._flow_id = np.zeros(slots, np.uint64)

    def add(self, flow_id: np.ndarray, shares: np.ndarray) -> None:
        """Keep (flows, classes) float32, calibrated probabilities; 0 where nothing was judged."""
        places = self._places(flow_id)
        self._shares[places] = shares
        self._flow_id[places] = flow_id

    def of(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float32, 0 for flows of which nothing is known."""
        places = self._places(flow_id)
        known = self._flow_id[places] == flow_id
        return np.where(known[:, np.newaxis], self._shares[places], np.float32(0))

    def _places(self, flow_id: np.ndarray) -> np.ndarray:
        return (flow_id % np.uint64(len(self._flow_id))).astype(np.int64)
