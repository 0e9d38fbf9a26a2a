"""The state of each flow between two stages: 32 bytes in a table, found by the flow's id.

Ids are dense, so the place of a flow is `id % slots`, as in regrouping. A newer flow with the same
place replaces the older one, which is forgotten. The older flow's closing row, which regrouping
makes of each flow that did not leave, is then judged from the first stage on.
"""

from pathlib import Path

import numpy as np

from etcpipe import layout

SLOTS = 1 << 20
CONSTANTS, _, RECORDS = layout.read_header(
    (Path(layout.__file__).parent / "native" / "cascade.h").read_text()
)
NONE, WAITING, QUEUED, DONE = (
    CONSTANTS[f"CASCADE_{name}"] for name in ("NONE", "WAITING", "QUEUED", "DONE")
)
NO_STAGE = CONSTANTS["CASCADE_NO_STAGE"]
NOT_TOLD = CONSTANTS["CASCADE_NOT_TOLD"] - (1 << 16)
_TYPES = {"probability": "<f4", "label": "<i2", "runner_up": "<i2", "told": "<i2"}
# floats, which the C header has as bits, get the types that NumPy computes with
STATE, SAID, VERDICT = (
    np.dtype([(name, _TYPES.get(name, record[name].str)) for name in record.names or ()])
    for record in (RECORDS[f"cascade_{name}"] for name in ("state", "said", "verdict"))
)
WORDS = STATE.itemsize // 8
_BLANK = np.array((0, 0, 0, -1, -1, NOT_TOLD, 0, NO_STAGE, 0, NONE, 0), STATE)
_BLANK_WORDS = _BLANK.reshape(1).view(np.uint64)


class FlowStates:
    """The table."""

    def __init__(self, slots: int = SLOTS):
        # pages of zeros that were never written take no memory
        self._table = np.zeros(slots, STATE)
        self._words = self._table.view(np.uint64).reshape(-1, WORDS)  # to copy entries in one piece
        self._slots = np.uint64(slots)
        self._forgotten = np.zeros(1, np.uint64)
        self.addresses = self._table.ctypes.data, slots, self._forgotten.ctypes.data  # for C

    @property
    def forgotten(self) -> int:
        """Number of flows that lost their place before they were answered."""
        return int(self._forgotten[0])

    def look_up(self, flow_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (flows,) STATE, blank if there is none; and (flows,) where a newer flow is."""
        state = self._table.take(self._slot_of(flow_id))
        owner = state["flow_id"].copy()
        other = (owner != flow_id).nonzero()[0]
        if len(other):
            words = state.view(np.uint64).reshape(-1, WORDS)
            words[other] = _BLANK_WORDS
            state["flow_id"] = flow_id
        return state, owner > flow_id

    def is_awaited(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, whether an early row of each flow is queued or being judged."""
        return self.status_of(flow_id) == QUEUED

    def status_of(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) uint8, the status of each flow; NONE if it is not in the table."""
        state = self._table.take(self._slot_of(flow_id))
        return np.where(state["flow_id"] == flow_id, state["status"], np.uint8(NONE))

    def has_begun(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, whether a row of each flow was taken before."""
        return self.status_of(flow_id) != NONE

    def __len__(self) -> int:
        return len(self._table)

    def awaits_any(self, slots: slice) -> bool:
        """Does any flow in a part of the table wait for packets or for an answer?"""
        status = self._table["status"][slots]
        return bool(((status == WAITING) | (status == QUEUED)).any())

    def put(self, state: np.ndarray) -> None:
        """Store the states of flows, except where a newer flow has the place."""
        flow_id = state["flow_id"]
        slots = self._slot_of(flow_id)
        there = self._table.take(slots)
        owner, status = there["flow_id"], there["status"]
        other = owner != flow_id
        lost = (other & ((status == WAITING) | (status == QUEUED))).nonzero()[0]
        self._forgotten += np.uint64(len(lost))
        refused = owner > flow_id
        if refused.any():
            slots, state = slots[~refused], state.compress(~refused)
        self._words[slots] = state.view(np.uint64).reshape(-1, WORDS)

    def are_answered(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool, which flows have their final answer."""
        return self.status_of(flow_id) == DONE

    def settle(self, flow_id: np.ndarray) -> None:
        """Mark flows as answered."""
        state = np.full(len(flow_id), _BLANK)
        state["flow_id"], state["status"] = flow_id, DONE
        self.put(state)

    def clear(self, flow_id: np.ndarray) -> None:
        """Remove flows that have their answer."""
        slots = self._slot_of(flow_id)
        self._table["status"][slots[self._table["flow_id"][slots] == flow_id]] = DONE

    def _slot_of(self, flow_id: np.ndarray) -> np.ndarray:
        return (flow_id % self._slots).view(np.int64)
