"""Rows that wait for a stage: bounded, batched by size or deadline, the earliest deadline first."""

from heapq import heappop, heappush
from itertools import count

import numpy as np

from etcpipe.cascade.stages import Stage

# Nobody waits as much for the answer on a flow that has ended: so many times longer it may take.
ENDED_PATIENCE = 2


class StageQueue:
    """The queue of one stage, of places of rows; the caller keeps to its bound, see room.

    Rows that came together and have one deadline are one entry.
    """

    def __init__(self, stage: Stage):
        self._stage = stage
        self._deadline_ns = round(stage.deadline_ms * 1e6)
        self._heap: list[tuple[int, int, np.ndarray]] = []  # deadline, order of arrival, places
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

    def push(self, places: np.ndarray, is_over: bool, now_ns: int) -> None:
        """Add rows that came now, of flows that go on or of such as have ended."""
        self._push(now_ns + (ENDED_PATIENCE if is_over else 1) * self._deadline_ns, places)

    def pass_on(self, places: np.ndarray, due_ns: int) -> None:
        """Add rows of a batch that was due then: they do not wait for a batch once more."""
        self._push(due_ns, places)

    def is_due(self, now_ns: int) -> bool:
        """Is there a batch: as many rows as one takes, or one that must not wait any longer?"""
        return self._rows >= self._stage.batch or (self._rows > 0 and self._heap[0][0] <= now_ns)

    def pop(self) -> np.ndarray:
        """Return the places of one batch, the earliest deadlines; there must be rows."""
        parts: list[np.ndarray] = []
        wanted = min(self._stage.batch, self._rows)
        self._rows -= wanted
        while wanted:
            deadline_ns, order, places = heappop(self._heap)
            if len(places) > wanted:
                heappush(self._heap, (deadline_ns, order, places[wanted:]))
                places = places[:wanted]
            parts.append(places)
            wanted -= len(places)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _push(self, deadline_ns: int, places: np.ndarray) -> None:
        self._rows += len(places)
        heappush(self._heap, (deadline_ns, next(self._order), places))
