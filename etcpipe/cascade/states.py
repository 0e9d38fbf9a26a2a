"""What is kept of a flow between two stages: 32 bytes in a table, by its id.

Ids are dense, so a flow's place is `id % slots`, as in regrouping. A flow that began a whole table
later takes the place of the older one, which is forgotten: its closing row, which regrouping
gives of each flow that did not leave, is then judged from the first stage on.
"""

import numpy as np

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
_BLANK_WORDS = _BLANK.reshape(1).view(np.uint64)


def has_doubles(flow_id: np.ndarray) -> bool:
    """Return whether a flow is in it twice."""
    ordered = np.sort(flow_id)
    return len((ordered[1:] == ordered[:-1]).nonzero()[0]) > 0


def first_of_each(flow_id: np.ndarray) -> np.ndarray:
    """Return (rows,) bool, where a flow is for the first time."""
    first = np.zeros(len(flow_id), bool)
    first[np.unique(flow_id, return_index=True)[1]] = True
    return first


class FlowStates:
    """The table."""

    def __init__(self, slots: int = SLOTS):
        # zeros that were never written take no memory
        self._table = np.zeros(slots, STATE)
        self._words = self._table.view(np.uint64).reshape(-1, WORDS)  # copied in one piece
        self._slots = np.uint64(slots)
        self.forgotten = 0

    def look_up(self, flow_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (flows,) STATE, blank where there is none; and where a newer flow is instead."""
        state = self._table.take(self._slot_of(flow_id))
        owner = state["flow_id"].copy()
        other = (owner != flow_id).nonzero()[0]
        if len(other):
            words = state.view(np.uint64).reshape(-1, WORDS)
            words[other] = _BLANK_WORDS
            state["flow_id"] = flow_id
        return state, owner > flow_id

    def is_awaited(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, whether an early row of each flow is queued or judged."""
        return self.status_of(flow_id) == QUEUED

    def status_of(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) uint8, the status of each flow, NONE where it is not in the table."""
        state = self._table.take(self._slot_of(flow_id))
        return np.where(state["flow_id"] == flow_id, state["status"], np.uint8(NONE))

    def has_begun(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, whether a row of each flow was taken, answered or not."""
        return self.status_of(flow_id) != NONE

    def __len__(self) -> int:
        return len(self._table)

    def awaits_any(self, slots: slice) -> bool:
        """Does a flow in some places of the table wait for packets or for an answer?"""
        status = self._table["status"][slots]
        return bool(((status == WAITING) | (status == QUEUED)).any())

    def put(self, state: np.ndarray) -> None:
        """Keep the state of some flows, but of none whose place a newer one has."""
        flow_id = state["flow_id"]
        slots = self._slot_of(flow_id)
        there = self._table.take(slots)
        owner, status = there["flow_id"], there["status"]
        other = owner != flow_id
        lost = (other & ((status == WAITING) | (status == QUEUED))).nonzero()[0]
        self.forgotten += len(lost)
        refused = owner > flow_id
        if refused.any():
            slots, state = slots[~refused], state.compress(~refused)
        self._words[slots] = state.view(np.uint64).reshape(-1, WORDS)

    def clear(self, flow_id: np.ndarray) -> None:
        """Forget flows that have their answer."""
        slots = self._slot_of(flow_id)
        self._table["status"][slots[self._table["flow_id"][slots] == flow_id]] = DONE

    def _slot_of(self, flow_id: np.ndarray) -> np.ndarray:
        return (flow_id % self._slots).view(np.int64)
