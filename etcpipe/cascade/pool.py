"""Rows that are on their way through the stages: each lies in one place until it leaves.

A row takes 1.7 kB where models see bytes. It is copied in when it comes and out for a model or a
verdict; in between queues pass on the number of its place.
"""

from typing import NamedTuple

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.cascade.states import STATE, WORDS
from etcpipe.layout import READY_REASONS

ROWS_LEAST = 1024
_IS_OVER = np.array([reason in ("idle", "end") for reason in READY_REASONS])


class Batch(NamedTuple):
    """Rows that a model judges together.

    Attributes:
        places: (rows,) int, where each lies.
        flows: the rows themselves, copied.
        due_ns: their earliest deadline.
    """

    places: np.ndarray
    flows: FlowBatch
    due_ns: int

    @property
    def size(self) -> int:
        """How many they are; len() is a tuple's."""
        return len(self.places)


class RowPool:
    """The places; there are twice as many whenever they do not suffice.

    Attributes:
        depth: (places,) uint8, packets at which an early row came out; 0 for a closed row, the
            last one of its flow.
        state: (places,) STATE, the answer so far.
    """

    def __init__(self, like: FlowBatch):
        """Make one for rows of the same shape as those."""
        self._columns = {
            name: np.zeros((0, *column.shape[1:]), column.dtype)
            for name, column in vars(like).items()
        }
        self.depth, self.state = np.zeros(0, np.uint8), np.zeros(0, STATE)
        self._free = np.zeros(0, np.int64)
        self._n_free = 0
        self._grow(ROWS_LEAST)

    def put(self, flows: FlowBatch, depth: np.ndarray | int) -> np.ndarray:
        """Return (flows,) int, the places of rows that were copied in."""
        while self._n_free < len(flows):
            self._grow(len(self.depth))
        self._n_free -= len(flows)
        places = self._free[self._n_free : self._n_free + len(flows)].copy()
        for name, column in vars(flows).items():
            self._bytes[name][places] = _as_bytes(column)
        self.depth[places] = depth
        return places

    def flows(self, places: np.ndarray) -> FlowBatch:
        """Return rows, copied."""
        # take() copies a row of several fields in one piece
        return FlowBatch(
            **{name: column.take(places, axis=0) for name, column in self._columns.items()}
        )

    def column(self, name: str, places: np.ndarray) -> np.ndarray:
        """Return one column of rows, copied."""
        return self._columns[name].take(places, axis=0)

    def is_over(self, places: np.ndarray) -> np.ndarray:
        """Return (rows,) bool, whether their flows have ended."""
        reason = self._columns["reason"].take(places)
        return (self.depth[places] == 0) & _IS_OVER[reason]

    def keep(self, places: np.ndarray, state: np.ndarray) -> None:
        """Note the answers so far, (rows,) STATE."""
        self._words[places] = state.view(np.uint64).reshape(-1, WORDS)

    def free(self, places: np.ndarray) -> None:
        """Give back the places of rows that left."""
        self._free[self._n_free : self._n_free + len(places)] = places
        self._n_free += len(places)

    def _grow(self, more: int) -> None:
        old = len(self.depth)
        self._columns = {name: _longer(c, more) for name, c in self._columns.items()}
        self._bytes = {name: _as_bytes(c) for name, c in self._columns.items()}
        self.depth, self.state = _longer(self.depth, more), _longer(self.state, more)
        self._words = self.state.view(np.uint64).reshape(-1, WORDS)
        self._free = _longer(self._free, more)
        self.free(np.arange(old + more, old, -1) - 1)


def _longer(column: np.ndarray, more: int) -> np.ndarray:
    longer = np.zeros((len(column) + more, *column.shape[1:]), column.dtype)
    longer[: len(column)] = column
    return longer


def _as_bytes(column: np.ndarray) -> np.ndarray:
    """Return rows of bytes of a column of several fields: NumPy copies fields one at a time."""
    if column.dtype.fields is None:
        return column
    plain = np.ascontiguousarray(column).view(np.uint8)
    return plain.reshape(len(column), -1) if column.size else plain.reshape(len(column), 0)
