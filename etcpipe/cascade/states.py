"""What is kept of a flow between two stages: 32 bytes in a table, by its id.

Ids are dense, so a flow's place is `id % slots`, as in regrouping. A flow that began a whole table
later takes the place of the older one, which is forgotten: its closing row, which regrouping
gives of each flow that did not leave, is then judged from the first stage on.
"""

from typing import NamedTuple

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.batch import concatenate as concatenate_flows

SLOTS = 1 << 20
NONE, WAITING, QUEUED, DONE = range(4)
NO_STAGE = 255
NOT_TOLD = -2

STATE = np.dtype(
    [
        ("flow_id", "<u8"),
        ("infer_ns", "<u8"),  # share of all batches that it was in
        ("probability", "<f4"),
        ("label", "<i2"),
        ("runner_up", "<i2"),
        ("told", "<i2"),  # label of the early answer, or NOT_TOLD
        ("packets_used", "<u2"),
        ("stage", "u1"),  # that gave the answer, or NO_STAGE
        ("next", "u1"),  # stage that it is to go to
        ("status", "u1"),  # NONE, WAITING for packets, QUEUED, DONE
        ("pad", "u1"),
    ]
)
WORDS = STATE.itemsize // 8
_BLANK = np.array((0, 0, 0, -1, -1, NOT_TOLD, 0, NO_STAGE, 0, NONE, 0), STATE)


class Rows(NamedTuple):
    """Rows of flows on their way through the stages.

    They stay in the batch that they came in, and who is where is a matter of numbers: only what a
    model is to see, or leaves, is copied. A row takes 1.7 kB where models see bytes.

    Attributes:
        batch: what they are rows of.
        at: (rows,) int ascending, which ones.
        depth: (rows,) uint8, packets at which an early row came out; 0 for a closed row, the
            last one of its flow.
        state: (rows,) STATE, the answer so far.
        due_ns: deadline of the model's batch that they were in; 0 before they were in one.
    """

    batch: FlowBatch
    at: np.ndarray
    depth: np.ndarray
    state: np.ndarray
    due_ns: int = 0

    @property
    def size(self) -> int:
        """How many they are; len() is a tuple's."""
        return len(self.at)

    @property
    def flows(self) -> FlowBatch:
        """The rows themselves, copied if they are not all of their batch."""
        return self.batch if self.size == len(self.batch) else self.batch.select(self.at)

    @property
    def flow_id(self) -> np.ndarray:
        """(rows,) uint64."""
        return self.state["flow_id"]

    @property
    def goes_on(self) -> np.ndarray:
        """(rows,) bool, whether more rows of the flow may come."""
        return self.depth > 0

    def select(self, rows: np.ndarray) -> "Rows":
        """Return some rows, chosen by (rows,) bool."""
        chosen = rows.nonzero()[0]
        if len(chosen) == self.size:
            return self
        at, depth = self.at[chosen], self.depth[chosen]
        return Rows(self.batch, at, depth, self.state.take(chosen), self.due_ns)

    def split(self, at: int) -> tuple["Rows", "Rows"]:
        """Return the first rows and the others."""
        first, second = (
            Rows(self.batch, self.at[part], self.depth[part], self.state[part], self.due_ns)
            for part in (slice(at), slice(at, None))
        )
        return first, second


def concatenate(parts: list[Rows], due_ns: int) -> Rows:
    """Return the rows of one or more as a batch of their own, due then."""
    flows = concatenate_flows([part.flows for part in parts])
    if len(parts) == 1:
        depth, state = parts[0].depth, parts[0].state
    else:
        depth = np.concatenate([part.depth for part in parts])
        state = np.concatenate([part.state for part in parts])
    return Rows(flows, np.arange(len(flows)), depth, state, due_ns)


def blank(flow_id: np.ndarray) -> np.ndarray:
    """Return (flows,) STATE of flows that nothing is known of."""
    state = np.empty(len(flow_id), STATE)
    state[:] = _BLANK
    state["flow_id"] = flow_id
    return state


class FlowStates:
    """The table."""

    def __init__(self, slots: int = SLOTS):
        # zeros that were never written take no memory
        self._table = np.zeros(slots, STATE)
        self._words = self._table.view(np.uint64).reshape(-1, WORDS)  # copied in one piece
        self.forgotten = 0

    def look_up(self, flow_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (flows,) STATE, blank where there is none; and where a newer flow is instead."""
        state = self._table.take(self._slots(flow_id))
        owner = state["flow_id"].copy()
        other = np.flatnonzero(owner != flow_id)
        if len(other):
            state[other] = blank(flow_id[other])
        return state, owner > flow_id

    def is_awaited(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, whether an early row of each flow is queued or judged."""
        slots = self._slots(flow_id)
        is_queued = self._table["status"][slots] == QUEUED
        return is_queued & (self._table["flow_id"][slots] == flow_id)

    def put(self, state: np.ndarray) -> None:
        """Keep the state of some flows, but of none whose place a newer one has."""
        slots = self._slots(state["flow_id"])
        owner, status = self._table["flow_id"][slots], self._table["status"][slots]
        other = owner != state["flow_id"]
        if other.any():
            self.forgotten += int((other & ((status == WAITING) | (status == QUEUED))).sum())
            kept = owner <= state["flow_id"]
            slots, state = slots[kept], state.compress(kept)
        self._words[slots] = state.view(np.uint64).reshape(-1, WORDS)

    def clear(self, flow_id: np.ndarray) -> None:
        """Forget flows that have their answer."""
        slots = self._slots(flow_id)
        self._table["status"][slots[self._table["flow_id"][slots] == flow_id]] = DONE

    def _slots(self, flow_id: np.ndarray) -> np.ndarray:
        return (flow_id % np.uint64(len(self._table))).astype(np.int64)
