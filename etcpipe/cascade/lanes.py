"""Regrouping in service: rows are made as another model or cascade needs them, from some flow on.

A flow stays with all its packets in the regrouping of the time when it began, so nothing of it is
lost, and its rows go to the model or stages of that time. Ids tell which flows are older than a
change: each processor numbers the flows that it begins one after the other (flow_id_next() of
bpf/maps.h).
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

# Copies that were on their way when their flow was answered have come by then.
QUIET_NS = 1_000_000_000

# Takes rows, and of early ones the depths at which they came out.
Take = Callable[[FlowBatch, np.ndarray | None], None]


class Lanes:
    """What the pipeline takes as its Regroup, while rows may come to be made otherwise.

    Args:
        make: returns the Regroup that a model or cascade needs.
        model: the first one.
        begun: returns how many flows each processor has begun, (processors,) uint64.
    """

    is_ahead = False  # of two batches at a time, flows would begin between two changes

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
        """Are rows as they are made now enough for a model or cascade?"""
        settings = self._newest.settings
        return model.raw_len <= settings.raw_len and model.mask == settings.mask

    def change(self, model: "AnyModel", take: Take) -> None:
        """Make rows for another one of flows that begin from now on.

        Args:
            take: takes the rows of all others.
        """
        newest = self._make(model)
        self._older.append(_Older(self._newest, self._begun(), take))
        self._newest = newest

    @property
    def newest(self) -> Regroup:
        """What makes the rows of flows that begin now."""
        return self._newest

    @property
    def has_older(self) -> bool:
        """May rows still come of flows that began before a change?"""
        return bool(self._older)

    @property
    def masks(self) -> set[str]:
        """Of the rows that may come out from now on."""
        return {regroup.settings.mask for regroup in self._all()}

    def add(self, batch: PacketBatch, now_ns: int | None = None) -> FlowBatch:
        """Take packets and return the newest flows that are complete; see Regroup.add()."""
        for older in self._older:
            is_theirs = older.has(batch.flow_id)
            older.add(batch.select(is_theirs), now_ns)
            batch = batch.select(~is_theirs)
        for over in [older for older in self._older if older.is_over(now_ns)]:
            self._older.remove(over)
            self._past.update(over.regroup.counters)
        return self._newest.add(batch, now_ns)

    def take_early(self) -> EarlyRows:
        """Return the early rows of the newest flows since the last call."""
        return self._newest.take_early()

    def flush(self) -> FlowBatch:
        """Return the newest flows that are left."""
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
        """See Regroup.scorer(); of the newest flows."""
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
    """A regrouping that flows begun later do not come to."""

    def __init__(self, regroup: Regroup, begun: np.ndarray, take: Take) -> None:
        self.regroup, self.take = regroup, take
        self._begun = begun
        self._busy_ns: int | None = None  # when it last had a packet, or a row to fill

    def has(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (packets,) bool, which are of flows that had begun."""
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
