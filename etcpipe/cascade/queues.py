"""Rows that wait for a stage: bounded, batched by size or deadline, the earliest deadline first."""

from heapq import heappop, heappush
from itertools import count

import numpy as np

from etcpipe.cascade.stages import Stage
from etcpipe.cascade.states import Rows, concatenate
from etcpipe.layout import READY_REASONS

# Nobody waits as much for the answer on a flow that has ended: so many times longer it may take.
ENDED_PATIENCE = 2
# Rows that wait keep their batch in memory: with more others than so many they are copied out.
OTHERS = 64
_IS_OVER = np.array([reason in ("idle", "end") for reason in READY_REASONS])


class StageQueue:
    """The queue of one stage; the caller keeps to its bound, see room()."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._deadline_ns = round(stage.deadline_ms * 1e6)
        self._heap: list[tuple[int, int, Rows]] = []  # deadline, order of arrival, rows
        self._order = count()
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def room(self) -> int:
        """Rows that may still come."""
        return self._stage.queue - self._rows

    @property
    def deadline_ns(self) -> int:
        """The earliest deadline; there must be rows."""
        return self._heap[0][0]

    def push(self, rows: Rows, now_ns: int) -> None:
        """Add rows that came now, or were passed on: these do not wait for a batch once more."""
        self._rows += rows.size
        if rows.due_ns:
            self._push(rows.due_ns, rows)
            return
        over = ~rows.goes_on & _IS_OVER[rows.batch.reason[rows.at]]
        for chosen, patience in ((~over, 1), (over, ENDED_PATIENCE)):
            if chosen.any():
                self._push(now_ns + patience * self._deadline_ns, rows.select(chosen))

    def is_due(self, now_ns: int) -> bool:
        """Is there a batch: as many rows as one takes, or one that must not wait any longer?"""
        return self._rows >= self._stage.batch or (self._rows > 0 and self._heap[0][0] <= now_ns)

    def pop(self) -> Rows:
        """Return the rows of one batch, the earliest deadlines; there must be rows."""
        parts: list[Rows] = []
        due_ns = self.deadline_ns
        wanted = min(self._stage.batch, self._rows)
        self._rows -= wanted
        while wanted:
            deadline_ns, order, rows = heappop(self._heap)
            if rows.size > wanted:
                rows, rest = rows.split(wanted)
                heappush(self._heap, (deadline_ns, order, rest))
            parts.append(rows)
            wanted -= rows.size
        return concatenate(parts, due_ns)

    def _push(self, deadline_ns: int, rows: Rows) -> None:
        if len(rows.batch) - rows.size > OTHERS:
            rows = concatenate([rows], rows.due_ns)
        heappush(self._heap, (deadline_ns, next(self._order), rows))
