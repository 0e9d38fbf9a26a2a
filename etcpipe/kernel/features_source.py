"""Rows of features that the kernel gathered, in the place of packets and of regrouping.

The kernel tells a row by a record in its ring buffer when N packets came, when a packet comes
after the waiting time, or when a newer flow needs the row's place. Flows that fell silent are
found in the table itself, which this process sees in its memory: no system call, and a packet
that comes to a silent flow changes nothing that is read.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.errors import UsageError
from etcpipe.gpu.inference import ROWS_AT_ONCE
from etcpipe.gpu.regroup import GRACE_NS
from etcpipe.kernel.features_plan import FeaturePlan
from etcpipe.kernel.features_rows import Gathered
from etcpipe.receiver import Receiver
from etcpipe.ringbuf import RingBuffer

if TYPE_CHECKING:
    from etcpipe.gpu.inference import Runner
    from etcpipe.gpu.views import View
    from etcpipe.model import Model

ROWS_MAX = 4096  # that come at once
# The table is looked at in slices, once round in so many seconds.
ROUND_S = 0.2
SLICE_S = 0.02


def features_of(model: "Model") -> tuple[str, ...]:
    """Return the columns that the kernel has to gather for a model.

    Raises:
        UsageError: it sees packets.
    """
    if not model.view.is_choice:
        raise UsageError(
            f"model {model.name} sees packets (view {model.view.name}), which the kernel does not"
            " gather: take a model of stats or features, or another --capture"
        )
    return model.columns


class FeatureSource(Receiver):
    """Yields entries as they are complete; a context manager.

    Args:
        records_fd, size: the ring of records, and its bytes.
        table_fd: the map `features`.

    Attributes:
        told: rows that came by a record, and those that were found silent, by name.
    """

    def __init__(self, records_fd: int, size: int, table_fd: int, plan: FeaturePlan):
        self.plan = plan
        self.told = {"FEATURES_TOLD": 0, "FEATURES_SILENT": 0}
        self._ring = RingBuffer(records_fd, size, idle_s=SLICE_S)
        length = plan.slots * plan.bytes
        self._memory = mmap.mmap(table_fd, length + -length % mmap.PAGESIZE)
        self._table = np.frombuffer(self._memory, np.uint8)
        self._record = plan.record()
        self._taken = np.zeros(plan.slots, np.uint64)
        self._rows = np.zeros(ROWS_MAX, plan.dtype)
        self._slot = 0
        self._looked = monotonic()

    @property
    def is_drained(self) -> bool:
        return self._ring.is_drained

    def receive(self) -> np.ndarray:
        """Return (rows,) of the plan's dtype that are complete, none if none came for a while."""
        rows = self._fresh(self._rows[: self._ring.copy(self._rows)])
        self.told["FEATURES_TOLD"] += len(rows)
        silent = self._look()
        self.told["FEATURES_SILENT"] += len(silent)
        return np.concatenate([rows, silent], dtype=self.plan.dtype)

    def rest(self) -> np.ndarray:
        """Return all rows that are still open, or could not be told."""
        parts, self._slot = [np.zeros(0, self.plan.dtype)], 0
        while self._slot < self.plan.slots:
            parts.append(self._scan(self.plan.slots, all_of_them=True))
        return np.concatenate(parts, dtype=self.plan.dtype)

    def statistics(self) -> dict[str, int]:
        """Return what was not delivered by reason: nothing, the programs count all of it."""
        return self._ring.statistics()

    def close(self) -> None:
        """Read no more."""
        self._ring.close()
        self._table = np.zeros(0, np.uint8)
        with suppress(BufferError):  # a copy of the table is still held: it unmaps with that
            self._memory.close()

    def _fresh(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows that were not found silent before their record came."""
        is_new = self._taken[rows["row"]] != rows["flow_id"]
        self._taken[rows["row"]] = rows["flow_id"]
        return rows[is_new]

    def _look(self) -> np.ndarray:
        """Look at the part of the table that is due; return rows that nothing will close."""
        now = monotonic()
        due = min(self.plan.slots, int((now - self._looked) / ROUND_S * self.plan.slots))
        if (now - self._looked) < SLICE_S:
            return self._rows[:0]
        self._looked = now
        end = self._slot + due
        if end <= self.plan.slots:
            return self._scan(end)
        first = self._scan(self.plan.slots)
        self._slot = 0
        return np.concatenate([first, self._scan(end - self.plan.slots)], dtype=self.plan.dtype)

    def _scan(self, end: int, all_of_them: bool = False) -> np.ndarray:
        rows = np.zeros(ROWS_MAX, self.plan.dtype)
        found, self._slot = _native.features_scan(
            self._table.ctypes.data,
            self._record.ctypes.data,
            self._taken.ctypes.data,
            self._slot,
            end,
            monotonic_ns(),
            GRACE_NS,
            all_of_them,
            rows.ctypes.data,
            len(rows),
        )
        return rows[:found]


class FeatureRows:
    """Stands where Regroup stands: entries go in, flows come out, and their scores with them."""

    is_ahead = False

    def __init__(self, source: FeatureSource):
        self._source = source
        self._out: FeatureQueue | None = None

    def add(self, entries: np.ndarray, now_ns: int | None = None) -> FlowBatch:
        """Return the flows of complete rows."""
        gathered = Gathered(entries, self._source.plan)
        if self._out:
            self._out.put(gathered)
        return gathered.flows

    def flush(self) -> FlowBatch:
        """Return the flows that are left."""
        return self.add(self._source.rest())

    def scorer(
        self, runner: "Runner", view: "View", depth: int, columns: Sequence[str]
    ) -> "FeatureScorer":
        """Return what has the scores of the flows that come out from now on, in their order."""
        scorer = FeatureScorer(runner, tuple(columns))
        self._out = scorer
        return scorer

    def queue(self) -> "FeatureQueue":
        """Return what has the entries of the flows that come out from now on, in their order."""
        self._out = FeatureQueue()
        return self._out

    @property
    def counters(self) -> dict[str, int]:
        """Rows by how they came."""
        return dict(self._source.told)


class FeatureQueue:
    """Entries whose flows came out, in the same order."""

    def __init__(self) -> None:
        self._waiting: list[Gathered] = []

    def put(self, gathered: Gathered) -> None:
        """Note entries whose flows come out."""
        if len(gathered.entries):
            self._waiting.append(gathered)

    def take(self, n: int) -> Any:
        """Return the entries of the next n flows; n is at least 1."""
        plan = self._waiting[0].plan
        parts = []
        while n > 0:
            gathered = self._waiting.pop(0)
            if len(gathered.entries) > n:
                self._waiting.insert(0, Gathered(gathered.entries[n:], plan))
                gathered = Gathered(gathered.entries[:n], plan)
            parts.append(gathered)
            n -= len(gathered.entries)
        if len(parts) == 1:
            return parts[0]
        entries = np.concatenate([part.entries for part in parts], dtype=plan.dtype)
        return Gathered(entries, plan)


class FeatureScorer(FeatureQueue):
    """Finishes rows and has them judged, in the order in which their flows came out."""

    def __init__(self, runner: "Runner", columns: tuple[str, ...]):
        super().__init__()
        self._runner = runner
        self._columns = columns

    def take(self, n: int) -> np.ndarray:
        """Return (n, classes) float32, the scores of the next n flows."""
        if not n:
            return self._runner.infer(np.zeros((0, len(self._columns)), np.float32))
        rows = super().take(n).rows(self._columns)
        scores = [
            self._runner.infer(rows[first : first + ROWS_AT_ONCE])
            for first in range(0, n, ROWS_AT_ONCE)
        ]
        return np.concatenate(scores)
