"""A shadow beside a cascade: a further model that judges whole rows, as it would alone.

A cascade answers flows before they have all the packets that the shadow wants. So with a shadow,
packets of answered flows are still copied and regrouped until their row is complete; then the
cascade's answer is compared with the shadow's. This does not change the cascade's answers.
"""

from collections.abc import Callable

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.answers import Records
from etcpipe.model import Model
from etcpipe.pipeline import Stages
from etcpipe.shadow import Shadow
from etcpipe.verdict import VerdictBatch


class ShadowedStages:
    """The runtime for pipeline.serve(): stages, and a shadow beside them if one is set.

    Attributes:
        shadow: None until set_shadow().
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self.shadow: Shadow | None = None
        self._answered: dict[int, str] = {}  # answers on flows whose row is not complete
        self._complete: dict[int, FlowBatch] = {}  # complete rows of flows without an answer

    def set_shadow(self, model: Model) -> None:
        """Ask a further model from the next batch on; see Shadow."""
        self.close()
        self.shadow = Shadow(model)

    def add(self, flows: FlowBatch, now_ns: int = 0, depth: np.ndarray | None = None) -> None:
        """Take rows, see Runtime.add()."""
        if depth is None:
            self.complete(flows)
        self._stages.add(flows, now_ns, depth)

    def poll(
        self, now_ns: int = 0, records: Records | None = None, flush: bool = False
    ) -> list[VerdictBatch]:
        """Return verdicts that are ready, see Runtime.poll()."""
        return self._noted(self._stages.poll(now_ns, records, flush))

    def drain(self, now: Callable[[], int], records: Records | None = None) -> list[VerdictBatch]:
        """Return the verdicts on all rows that were added."""
        return self._noted(self._stages.drain(now, records))

    def left(self) -> np.ndarray:
        """Return (flows,) uint64, answered flows that need no more rows; none with a shadow."""
        left = self._stages.left()
        return left[:0] if self.shadow else left

    def complete(self, flows: FlowBatch) -> None:
        """Compare the answers on flows whose rows are complete, or keep rows without an answer."""
        if not self.shadow:
            return
        ids = flows.flow_id.tolist()
        is_answered = np.array([one in self._answered for one in ids], bool)
        if is_answered.any():
            said = [self._answered.pop(one) for one in ids if one in self._answered]
            self.shadow.compare(flows.select(is_answered), said)
        for i in np.flatnonzero(~is_answered).tolist():
            self._complete[ids[i]] = flows.select(np.array([i]))

    def need_packets(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, which were answered before their row was complete."""
        return np.array([one in self._answered for one in flow_id.tolist()], bool)

    def close(self) -> None:
        """End the shadow."""
        if self.shadow:
            self.shadow.close()

    def _noted(self, said: list[VerdictBatch]) -> list[VerdictBatch]:
        for verdicts in said if self.shadow else []:
            final = verdicts.final()
            for i, flow in enumerate(final.flows.flow_id.tolist()):
                row = self._complete.pop(flow, None)
                if row is None:
                    self._answered[flow] = final.name(i)
                elif self.shadow:
                    self.shadow.compare(row, [final.name(i)])
        return said
