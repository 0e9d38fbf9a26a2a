"""A cascade whose first stage also runs in the kernel, while packets are being copied.

The kernel copies the packets of a flow until its trees are sure of it; then it sends the flow's row
through a ring and stops copying. The flow gets its verdict here, and packets that were copied
before need no answer. All other flows pass through every stage: the first stage is unsure of them
here too, and a flow that ended before the stage's packet is judged by what there is.

No flow is answered twice. The kernel sends the row before it settles the flow, so if the ring is
read first and rows are taken afterwards, it is known for each row whether the kernel answered it.
"""

from collections.abc import Callable

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.answers import Records, no_records
from etcpipe.cascade.life import CascadeInService
from etcpipe.cascade.stage0 import KernelStage
from etcpipe.kernel.features_plan import FeaturePlan
from etcpipe.kernel.features_rows import Gathered
from etcpipe.receiver import Receiver
from etcpipe.ringbuf import RingBuffer
from etcpipe.verdict import VerdictBatch

ROWS_MAX = 1024  # rows that are read at once


class SureRows(Receiver):
    """Rows of flows that the kernel is sure of; a context manager.

    Args:
        fd, size: file descriptor of the ring of these rows, and its size in bytes.
    """

    def __init__(self, fd: int, size: int, plan: FeaturePlan):
        self.plan = plan
        self._ring = RingBuffer(fd, size, idle_s=0)
        self._rows = np.zeros(ROWS_MAX, plan.dtype)

    def receive(self) -> np.ndarray:
        """Return the rows in the ring, (rows,) of the plan's dtype."""
        parts = []
        while n := self._ring.copy(self._rows, deadline_s=0):
            parts.append(self._rows[:n].copy())
        return np.concatenate(parts, dtype=self.plan.dtype) if parts else self._rows[:0]

    def close(self) -> None:
        """Close the ring."""
        self._ring.close()


class BesideKernel:
    """The runtime for pipeline.serve(): a cascade in service, and the kernel's answers.

    Args:
        stage: returns the first stage that the kernel runs now.
    """

    def __init__(
        self, serving: CascadeInService, rows: SureRows, stage: Callable[[], KernelStage]
    ) -> None:
        self._serving, self._rows, self._stage = serving, rows, stage
        self._told: list[np.ndarray] = []
        self._left: list[np.ndarray] = []

    def hear(self) -> None:
        """Take the kernel's answers; later rows of these flows are not needed."""
        entries = self._rows.receive()
        if len(entries):
            entries = entries[self._serving.settle(entries["flow_id"])]
            self._told.append(entries)
            self._left.append(entries["flow_id"].copy())

    def add(self, flows: FlowBatch, now_ns: int = 0, depth: np.ndarray | None = None) -> None:
        """Take rows, see Runtime.add()."""
        self.hear()
        self._serving.add(flows, now_ns, depth)

    def poll(
        self, now_ns: int = 0, records: Records | None = None, flush: bool = False
    ) -> list[VerdictBatch]:
        """Return verdicts that are ready, the kernel's first; see Runtime.poll()."""
        self.hear()
        return [*self._verdicts(now_ns, records), *self._serving.poll(now_ns, records, flush)]

    def drain(self, now: Callable[[], int], records: Records | None = None) -> list[VerdictBatch]:
        """Return the verdicts on all rows that were added, or came from the kernel."""
        self.hear()
        return [*self._verdicts(now(), records), *self._serving.drain(now, records)]

    def left(self) -> np.ndarray:
        """Return (flows,) uint64, ids answered since the last call while they go on."""
        left, self._left = [*self._left, self._serving.left()], []
        return np.concatenate(left)

    def _verdicts(self, now_ns: int, records: Records | None) -> list[VerdictBatch]:
        told, self._told = self._told, []
        gathered = [Gathered(entries, self._rows.plan) for entries in told if len(entries)]
        return [
            self._stage().verdicts(
                one.flows, one.entries, (records or no_records)(one.flows), now_ns
            )
            for one in gathered
        ]
