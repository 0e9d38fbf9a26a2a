"""A cascade in service, which another one can replace between two batches of packets.

Flows that had a row before the change stay with the old stages, which are kept until the last of
these flows is answered. All other rows go to the new stages. So each flow is answered once, by one
cascade.

Regrouping remains unchanged unless the new models need other rows (lanes.py); then all flows that
had begun stay with the old stages. Rows come at the depths with which regrouping was made. A stage
that waits for N packets is asked at the first of these depths that is at least N; its model decides
what it uses of the row.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.answers import Records
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.serving import CascadeModel
from etcpipe.errors import UsageError
from etcpipe.model_life import InService
from etcpipe.verdict import VerdictBatch

# Replaced cascades that still have flows: each keeps its threads and a table of up to 32 MB.
LEAVING_MAX = 4
# Slots checked between two batches of packets: takes some 20 us, the whole table 10 ms.
SLOTS_AT_ONCE = 1024


Take = Callable[[FlowBatch, int, np.ndarray | None], None]  # as CascadeInService.add()


class CascadeInService(InService[CascadeModel]):
    """The runtime for pipeline.serve(), whose thread must call all methods."""

    def __init__(self, active: CascadeModel, start: Callable[[CascadeModel], Runtime]) -> None:
        """Begin with a cascade; start: returns the runtime of a cascade."""
        super().__init__(active)
        self._start = start
        self._has_older_rows = lambda: False
        self._runtime = start(active)
        self._leaving: list[_Leaving] = []
        self._past: Counter[str] = Counter()  # counters of runtimes that have ended

    @property
    def counters(self) -> dict[str, int]:
        """As Runtime.counters, since the start."""
        total = Counter(self._past)
        for runtime in self._runtimes():
            total.update(runtime.counters)
        return dict(total)

    def replace(self, model: CascadeModel) -> None:
        """Let a cascade answer all flows that had no row yet; see check_fits().

        Raises:
            UsageError: too many replaced cascades still have flows to answer.
        """
        if len(self._leaving) >= LEAVING_MAX:
            raise UsageError(
                f"{LEAVING_MAX} replaced cascades still have flows to answer: try again in a minute"
            )
        self._leaving.append(_Leaving(self._runtime))
        self._runtime = self._start(model)
        super().replace(model)

    def settle(self, flow_id: np.ndarray) -> np.ndarray:
        """Take no more rows of flows that were answered elsewhere.

        Returns:
            (flows,) bool, which were not answered here before.
        """
        is_new = ~self._are_answered(flow_id)
        self._runtime.states.settle(flow_id[is_new])
        return is_new

    def add(self, flows: FlowBatch, now_ns: int = 0, depth: np.ndarray | None = None) -> None:
        """Take rows, see Runtime.add()."""
        _add(self._runtimes(), flows, now_ns, depth)

    def keep_taking(self, has_more: Callable[[], bool]) -> Take:
        """Return a function that takes rows for the present stages even after a change.

        Args:
            has_more: whether such rows may come.
        """
        self._has_older_rows, runtimes = has_more, self._runtimes()

        def take(flows: FlowBatch, now_ns: int, depth: np.ndarray | None) -> None:
            wanted = ~self._are_answered(flows.flow_id)
            depth = None if depth is None else depth[wanted]
            _add(runtimes, flows.select(wanted), now_ns, depth)

        return take

    def _are_answered(self, flow_id: np.ndarray) -> np.ndarray:
        return np.any([one.states.are_answered(flow_id) for one in self._runtimes()], axis=0)

    def poll(
        self, now_ns: int = 0, records: Records | None = None, flush: bool = False
    ) -> list[VerdictBatch]:
        """Return verdicts that are ready, see Runtime.poll()."""
        return self._each(lambda runtime: runtime.poll(now_ns, records, flush))

    def drain(self, now: Callable[[], int], records: Records | None = None) -> list[VerdictBatch]:
        """Return the verdicts on all rows that were added."""
        return self._each(lambda runtime: runtime.drain(now, records))

    def left(self) -> np.ndarray:
        """Return (flows,) uint64, ids answered since the last call while they go on."""
        left = [runtime.left() for runtime in self._runtimes()]
        leaving = [] if self._has_older_rows() else self._leaving
        for one in [one for one in leaving if one.has_answered()]:
            self._leaving.remove(one)
            self._past.update(one.runtime.counters)
            one.runtime.close()
        return np.concatenate(left)

    def close(self) -> None:
        """End the workers."""
        for runtime in self._runtimes():
            runtime.close()

    def _runtimes(self) -> list[Runtime]:
        return [*(one.runtime for one in self._leaving), self._runtime]

    def _each(self, call: Callable[[Runtime], list[VerdictBatch]]) -> list[VerdictBatch]:
        return [verdicts for runtime in self._runtimes() for verdicts in call(runtime)]


def _add(runtimes: list[Runtime], flows: FlowBatch, now_ns: int, depth: np.ndarray | None) -> None:
    """Give rows to the runtime that has their flow, and all others to the newest."""
    for runtime in runtimes[:-1]:
        is_theirs = runtime.states.has_begun(flows.flow_id)
        if not is_theirs.any():
            continue
        theirs = None if depth is None else depth[is_theirs]
        runtime.add(flows.select(is_theirs), now_ns, theirs)
        flows, depth = flows.select(~is_theirs), None if depth is None else depth[~is_theirs]
    runtimes[-1].add(flows, now_ns, depth)


class _Leaving:
    """A runtime that was replaced, and is kept until it has answered its flows."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._done = 0  # slots that were checked: no flow waits or begins there

    def has_answered(self) -> bool:
        """Has it answered all flows? Checks SLOTS_AT_ONCE more slots in each call."""
        states, end = self.runtime.states, self._done + SLOTS_AT_ONCE
        if not self.runtime.is_idle or states.awaits_any(slice(self._done, end)):
            return False
        self._done = end
        return end >= len(states)
