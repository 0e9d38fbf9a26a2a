"""Early rows on a GPU: tells which are due and keeps their copies until they are taken."""

import numpy as np

from etcpipe.batch import concatenate
from etcpipe.gpu.regroup import EarlyRows, Settings
from etcpipe.gpu.regroup_output_gpu import Outputs, Rows


class EarlyRowsDue:
    """The early rows of a batch: copies of rows at its end, in the order of its packets."""

    def __init__(self, settings: Settings, outputs: Outputs):
        self._outputs = outputs
        self._depths = np.array(settings.depths, np.uint8)
        self._ready: list[EarlyRows] = []
        self._begin()

    def _begin(self) -> None:
        self._row = np.zeros(0, np.uint32)
        self._depth = np.zeros(0, np.uint8)
        self._is_copied = np.zeros(0, bool)
        # copies, and the position of each in the order of packets
        self._copies: list[Rows] = []
        self._places: list[np.ndarray] = []

    def note(self, row: np.ndarray, ranks: np.ndarray) -> None:
        """Note the early rows that some packets of the batch make due.

        Args:
            row: (packets,) uint32, the row of each packet.
            ranks: (packets,) uint64, a bit for each rank that the packet filled.
        """
        filled = ranks[:, None] >> (self._depths - 1).astype(np.uint64) & np.uint64(1)
        packet, which = np.nonzero(filled)
        self._row = np.concatenate([self._row, row[packet]])
        self._depth = np.concatenate([self._depth, self._depths[which]])
        self._is_copied = np.concatenate([self._is_copied, np.zeros(len(packet), bool)])

    def copy(self, closed: np.ndarray) -> None:
        """Copy those of closed rows, whose places are about to be reused."""
        self._copy(~self._is_copied & np.isin(self._row, closed))

    def end(self) -> None:
        """Copy all others at the end of the batch."""
        self._copy(~self._is_copied)
        if len(self._row):
            flows = self._outputs.joined(self._copies)
            order = np.argsort(np.concatenate(self._places))
            self._ready.append(EarlyRows(self._depth, flows.select(order)))
            self._begin()

    def _copy(self, chosen: np.ndarray) -> None:
        places = np.flatnonzero(chosen)
        self._copies += self._outputs.gather(self._row[places], depth=self._depth[places])
        self._places.append(places)
        self._is_copied[places] = True

    def take(self) -> EarlyRows:
        """Return all rows since the last call."""
        ready, self._ready = self._ready, []
        if not ready:
            return EarlyRows(self._depths[:0], self._outputs.joined([]))
        depths = np.concatenate([rows.depth for rows in ready])
        return EarlyRows(depths, concatenate([rows.flows for rows in ready]))
