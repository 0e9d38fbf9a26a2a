"""Regrouping in service: a new model or cascade may need other rows, for flows from now on.

All packets of a flow stay in the regrouping in which the flow began, so none is lost, and its rows
go to the model or stages of that time. The ids tell which flows are older than a change: each
processor numbers its flows consecutively (flow_id_next() of bpf/maps.h).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.gpu.regroup import EarlyRows, Regroup

if TYPE_CHECKING:
    from etcpipe.gpu.inference import Runner
    from etcpipe.gpu.scorer_gpu import Scorer
    from etcpipe.gpu.views import View
    from etcpipe.model_choice import AnyModel

# After so long without packets, no copied packet of older flows is still on its way.
QUIET_NS = 1_000_000_000

# Takes rows and, for early ones, the depths at which they came out.
Take = Callable[[FlowBatch, np.ndarray | None], None]


class Lanes:
    """The pipeline's Regroup, which can be replaced while flows are open.

    Args:
        make: returns the Regroup that a model or cascade needs.
        model: the first one.
        begun: returns the number of flows that each processor has begun, (processors,) uint64.
    """

    is_ahead = False  # with two batches on their way, a change would fall between them

    def __init__(
        self,
        make: "Callable[[AnyModel], Regroup]",
        model: "AnyModel",
        begun: Callable[[], np.ndarray],
    ) -> None:
        self._make, self._begun = make, begun
        self._newest = make(model)
        self._older: list[_Older] = []
        self._past: Counter[str] = Counter()

    def serves(self, model: "AnyModel") -> bool:
        """Do the rows that are made now suffice for a model or cascade?"""
        settings = self._newest.settings
        return model.raw_len <= settings.raw_len and model.mask == settings.mask

    def change(self, model: "AnyModel", take: Take) -> None:
        """Make rows for another model or cascade, of flows that begin from now on.

        Args:
            take: takes the rows of all older flows.
        """
        newest = self._make(model)
        self._older.append(_Older(self._newest, self._begun(), take))
        self._newest = newest

    @property
    def newest(self) -> Regroup:
        """The regrouping of flows that begin now."""
        return self._newest

    @property
    def has_older(self) -> bool:
        """May rows still come of flows that began before a change?"""
        return bool(self._older)

    @property
    def masks(self) -> set[str]:
        """The masks of rows that may still come out."""
        return {regroup.settings.mask for regroup in self._all()}

    def add(self, batch: PacketBatch, now_ns: int | None = None) -> FlowBatch:
        """Take packets and return complete rows of the newest regrouping; see Regroup.add()."""
        for older in self._older:
            is_theirs = older.has(batch.flow_id)
            older.add(batch.select(is_theirs), now_ns)
            batch = batch.select(~is_theirs)
        for over in [older for older in self._older if older.is_over(now_ns)]:
            self._older.remove(over)
            self._past.update(over.regroup.counters)
        return self._newest.add(batch, now_ns)

    def take_early(self) -> EarlyRows:
        """Return the early rows of the newest regrouping since the last call."""
        return self._newest.take_early()

    def flush(self) -> FlowBatch:
        """Return the rows that are left in the newest regrouping."""
        for older in self._older:
            older.take(older.regroup.flush(), None)
        return self._newest.flush()

    def leave(self, flow_id: np.ndarray) -> None:
        """End flows that need no more rows, see Regroup.leave()."""
        for regroup in self._all():
            regroup.leave(flow_id)

    def scorer(
        self, runner: "Runner", view: "View", depth: int, columns: Sequence[str]
    ) -> "Scorer | None":
        """See Regroup.scorer(); for the newest regrouping."""
        return self._newest.scorer(runner, view, depth, columns)

    @property
    def counters(self) -> dict[str, int]:
        """As Regroup.counters, since the start."""
        total = Counter(self._past)
        for regroup in self._all():
            total.update(regroup.counters)
        return dict(total)

    @property
    def pending(self) -> int:
        """Flows whose row is open."""
        return sum(regroup.pending for regroup in self._all())

    def _all(self) -> list[Regroup]:
        return [*(older.regroup for older in self._older), self._newest]


class _Older:
    """A regrouping that gets no new flows."""

    def __init__(self, regroup: Regroup, begun: np.ndarray, take: Take) -> None:
        self.regroup, self.take = regroup, take
        self._begun = begun
        self._busy_ns: int | None = None  # when it last got a packet or had an open row

    def has(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (packets,) bool, the packets of flows that had begun before the change."""
        processors = np.uint64(len(self._begun))
        return flow_id // processors <= self._begun[(flow_id % processors).view(np.int64)]

    def add(self, batch: PacketBatch, now_ns: int | None) -> None:
        """Take packets, and hand over the rows that they complete."""
        closed = self.regroup.add(batch, now_ns)
        early = self.regroup.take_early()
        self.take(early.flows, early.depth)
        self.take(closed, None)
        if len(batch) or self.regroup.pending or self._busy_ns is None:
            self._busy_ns = now_ns

    def is_over(self, now_ns: int | None) -> bool:
        """Is no row open, and did no packet come for a while?"""
        if now_ns is None or self._busy_ns is None:
            return False
        return now_ns - self._busy_ns > QUIET_NS
