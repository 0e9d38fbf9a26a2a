"""The kernel's flow table as user space sees it: bpf/table.h in NumPy.

The kernel's programs write it while it is read, and take no notice. Each flow is read whole or
not at all: its id is read before and after, and a place that changes hands shows none. What is
written here is one word a flow, `taken`, which ends the flow that has this id and no other.
"""

import mmap
import secrets
from collections.abc import Iterator, Mapping

import numpy as np

from etcpipe.kernel import bpf
from etcpipe.layout import CONSTANTS, FLOW_KEY, FLOW_PLAN, FLOW_STATE, TABLE_ENTRY

MAPS = ("flows", "flow_tags", "flow_plan")
SET_FLOWS = CONSTANTS["SET_FLOWS"]
SET_BYTES = SET_FLOWS * TABLE_ENTRY.itemsize
TAGS_BYTES = SET_FLOWS * 2
# Sets fill unevenly: with half as many places more than flows one in a thousand finds its set
# full. A table so small that it is wanted full gets no more than it asked for.
SPARE_FROM = 1024
FOUND_AT_ONCE = 256
WINDOW_SETS = 128
ONES, FOLD, GOLDEN = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(0x9E3779B97F4A7C15)


def sets_for(max_flows: int) -> int:
    """Return how many sets a table for so many flows has."""
    places = max_flows + (max_flows // 2 if max_flows >= SPARE_FROM else 0)
    return -(-places // SET_FLOWS)


def plan(maps: Mapping[str, int]) -> None:
    """Choose how a new table's flows find their places; before its first packet."""
    row = np.zeros(1, FLOW_PLAN)
    bpf.lookup(maps["flow_plan"], np.zeros(1, np.uint32), row)
    if row["sets"][0]:
        return  # the table of an earlier tap
    words = len(row["multipliers"][0])
    row["multipliers"] = np.frombuffer(secrets.token_bytes(8 * words), np.uint64) | np.uint64(1)
    row["sets"] = bpf.map_shape(maps["flows"]).max_entries
    bpf.update(maps["flow_plan"], np.zeros(1, np.uint32), row)


class FlowTable:
    """A tap's flow table.

    Args:
        maps: descriptors by name, of MAPS; they stay the caller's.
    """

    def __init__(self, maps: Mapping[str, int]):
        self._maps = maps
        self._plan = np.zeros(1, FLOW_PLAN)
        bpf.lookup(maps["flow_plan"], np.zeros(1, np.uint32), self._plan)
        self._sets = int(self._plan["sets"][0])

    def windows(self, sets: int = WINDOW_SETS) -> Iterator["Window"]:
        """Yield the table, so many sets at a time; stretches that never had a flow are left out.

        A window is mapped for as long as it is looked at, so that the table does not count as
        this process's memory.
        """
        for first in self._first_sets(sets):
            size = min(sets, self._sets - first) * SET_BYTES
            memory = mmap.mmap(self._maps["flows"], size, offset=first * SET_BYTES)
            yield Window(np.frombuffer(memory, TABLE_ENTRY))

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all keys and states."""
        keys, states = [np.empty(0, FLOW_KEY)], [np.empty(0, FLOW_STATE)]
        for window in self.windows():
            keys.append(window.keys)
            states.append(window.states)
        # named, as NumPy would turn the network order of a port into the machine's
        return np.concatenate(keys, dtype=FLOW_KEY), np.concatenate(states, dtype=FLOW_STATE)

    def __len__(self) -> int:
        return sum(len(window.rows) for window in self.windows())

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return (n,) FLOW_STATE of flows by their keys, zero where there is none."""
        # whatever byte order NumPy made of the ports on the way, the table's is FLOW_KEY's
        keys = np.ascontiguousarray(keys, FLOW_KEY)
        states = np.zeros(len(keys), FLOW_STATE)
        for start in range(0, len(keys), FOUND_AT_ONCE):
            part = slice(start, start + FOUND_AT_ONCE)
            self._find(keys[part], states[part])
        return states

    def _find(self, keys: np.ndarray, states: np.ndarray) -> None:
        sets = np.zeros((len(keys), SET_FLOWS), TABLE_ENTRY)
        bpf.lookup(self._maps["flows"], self._set_of(keys), sets)
        same = (_words(sets["key"]) == _words(keys)[:, None]).all(axis=-1) & _used(sets)
        row, place = same.nonzero()
        states[row] = sets["state"][row, place]

    def _set_of(self, keys: np.ndarray) -> np.ndarray:
        """Return (n,) uint32, the number of each key's set."""
        hashed = (_words(keys) * self._plan["multipliers"][0]).sum(axis=-1, dtype=np.uint64)
        hashed ^= hashed >> FOLD
        hashed *= GOLDEN
        return ((hashed >> FOLD) * np.uint64(self._sets) >> FOLD).astype(np.uint32)

    def _first_sets(self, sets: int) -> Iterator[int]:
        """Yield the first set of each stretch of so many in which there were flows."""
        with mmap.mmap(self._maps["flow_tags"], self._sets * TAGS_BYTES) as memory:
            tags = memory[:]
        filled = np.frombuffer(tags, np.uint64).reshape(self._sets, -1).any(axis=1)
        used = np.logical_or.reduceat(filled, np.arange(0, self._sets, sets))
        yield from (np.flatnonzero(used) * sets).tolist()


class Window:
    """A stretch of the table, and the flows that were in it when this was made.

    Attributes:
        rows: (n,) places of flows in the stretch.
        keys: (n,) FLOW_KEY.
        states: (n,) FLOW_STATE.
    """

    def __init__(self, places: np.ndarray):
        self._places = places
        rows = np.flatnonzero(_used(places))
        found = places[rows]
        whole = self._hold(rows, found) & _used(found)
        self.rows, found = rows[whole], found[whole]
        self.keys = np.ascontiguousarray(found["key"])
        self.states = np.ascontiguousarray(found["state"])

    def take(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take flows out, by (n,) bool; returns the rows that were, (k,), and their last states.

        A flow that began anew since it was looked at is another one and stays, as does that
        which has its place now. A packet that is being accounted at this moment may be missing.
        """
        rows, ids = self.rows[chosen], self.states["flow_id"][chosen]
        self._places["taken"][rows] = ids
        found = self._places[rows]
        whole = self._hold(rows, found) & (found["state"]["flow_id"] == ids)
        return np.flatnonzero(chosen)[whole], np.ascontiguousarray(found["state"][whole])

    def _hold(self, rows: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Return whether places still are of the flows that they were copied of."""
        now = self._places["state"]["flow_id"][rows]
        return (found["state"]["flow_id"] == now) & (self._places["taken"][rows] == found["taken"])


def _used(places: np.ndarray) -> np.ndarray:
    """Return whether a flow is in each place."""
    return places["taken"] != places["state"]["flow_id"]


def _words(keys: np.ndarray) -> np.ndarray:
    """Return (..., 6) uint64 of (...) FLOW_KEY."""
    keys = np.ascontiguousarray(keys)
    return keys.view(np.uint64).reshape(*keys.shape, -1)
