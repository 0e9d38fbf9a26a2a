"""The queue of a stage: bounded, batched by size or deadline, earliest deadline first."""

from heapq import heappop, heappush
from itertools import count

import numpy as np

from etcpipe.cascade.stages import Stage

# Answers on flows that have ended are less urgent: their deadlines are so many times longer.
ENDED_PATIENCE = 2


class StageQueue:
    """A queue of places of rows. The caller must not add more than `room`.

    Rows that arrived together and have the same deadline are one entry.
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
        """Number of rows that may still be added."""
        return self._stage.queue - self._rows

    @property
    def deadline_ns(self) -> int:
        """The earliest deadline; the queue must not be empty."""
        return self._heap[0][0]

    def push(self, places: np.ndarray, is_over: bool, now_ns: int) -> None:
        """Add rows that arrived now, of live flows or of flows that have ended."""
        self._push(now_ns + (ENDED_PATIENCE if is_over else 1) * self._deadline_ns, places)

    def pass_on(self, places: np.ndarray, due_ns: int) -> None:
        """Add rows from the previous stage; they keep their deadline, as they waited already."""
        self._push(due_ns, places)

    def is_due(self, now_ns: int) -> bool:
        """Is a batch due: enough rows, or a deadline that has passed?"""
        return self._rows >= self._stage.batch or (self._rows > 0 and self._heap[0][0] <= now_ns)

    def pop(self) -> np.ndarray:
        """Remove and return one batch of the earliest deadlines; the queue must not be empty."""
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
