"""The rows that are passing through the stages; each has a fixed place until it leaves.

A row takes 1.7 kB if models see bytes. It is copied in when it arrives and out for a model or a
verdict, in C (etcpipe/native/cascade_rows.c). In between, queues hold the number of its place only.
"""

from typing import NamedTuple

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch
from etcpipe.cascade.states import RECORDS, STATE
from etcpipe.columns import address_of, addresses_of

ROWS_LEAST = 1024
_WORD = 8  # alignment of columns that are copied out
_COLUMN, _POOL = RECORDS["cascade_column"], RECORDS["cascade_pool"]


class Batch(NamedTuple):
    """Rows that a model judges together.

    Attributes:
        places: (rows,) int, the place of each.
        flows: the rows themselves, copied.
        due_ns: their earliest deadline.
    """

    places: np.ndarray
    flows: FlowBatch
    due_ns: int

    @property
    def size(self) -> int:
        """Number of rows; len() is that of the tuple."""
        return len(self.places)


class RowPool:
    """The places; their number doubles when they are all taken.

    Attributes:
        depth: (places,) uint8, packets at which an early row came out; 0 for a closed row, the
            last one of its flow.
        state: (places,) STATE, the answer so far.
        address: of the struct cascade_pool, which lives as long as this.
    """

    def __init__(self, like: FlowBatch):
        """Make a pool for rows of the same shape as those of `like`."""
        self._columns = {
            name: np.zeros((0, *column.shape[1:]), column.dtype)
            for name, column in vars(like).items()
        }
        self._sizes = [
            column.dtype.itemsize * int(np.prod(column.shape[1:], dtype=np.int64))
            for column in self._columns.values()
        ]
        self._sources = np.zeros(len(self._columns), np.uint64)
        self._sources_at = address_of(self._sources)
        self.depth, self.state = np.zeros(0, np.uint8), np.zeros(0, STATE)
        self._free = np.zeros(0, np.int64)
        self._record = np.zeros(1, _POOL)
        self._n_free = self._record["n_free"]
        self.address = address_of(self._record)
        self._grow(ROWS_LEAST)

    def put(self, flows: FlowBatch, depth: np.ndarray | int) -> np.ndarray:
        """Copy rows in and return their places, (flows,) int64.

        Raises:
            ValueError: they have another shape than the pool's rows.
        """
        n = len(flows)
        columns = [np.ascontiguousarray(column) for column in vars(flows).values()]
        for column, size in zip(columns, self._sizes, strict=True):
            if column.nbytes != n * size:
                raise ValueError(f"rows of {column.dtype} {column.shape}, not of {size} bytes")
        while self._n_free[0] < n:
            self._grow(len(self.depth))
        self._sources[:] = addresses_of(columns)
        depths = depth if isinstance(depth, np.ndarray) else np.full(n, depth, np.uint8)
        depths, places = np.ascontiguousarray(depths, np.uint8), np.empty(n, np.int64)
        _native.cascade_put(
            self.address, self._sources_at, address_of(depths), n, address_of(places)
        )
        return places

    def flows(self, places: np.ndarray) -> FlowBatch:
        """Return rows, copied."""
        n = len(places)
        places = np.ascontiguousarray(places, np.int64)
        begins = [0]
        for size in self._sizes:
            begins.append(begins[-1] + -(-n * size // _WORD) * _WORD)
        taken = np.empty(begins[-1] + _WORD, np.uint8)  # empty columns begin inside
        _native.cascade_take(self.address, address_of(places), n, address_of(taken))
        return FlowBatch(
            *(
                np.ndarray((n, *column.shape[1:]), column.dtype, taken, begin)
                for column, begin in zip(self._columns.values(), begins, strict=False)
            )
        )

    def column(self, name: str, places: np.ndarray) -> np.ndarray:
        """Return one column of rows, copied."""
        return self._columns[name].take(places, axis=0)

    def free(self, places: np.ndarray) -> None:
        """Free the places of rows; their contents stay until the next put()."""
        places = np.ascontiguousarray(places, np.int64)
        _native.cascade_free(self.address, address_of(places), len(places))

    def _grow(self, more: int) -> None:
        old = len(self.depth)
        self._columns = {name: _longer(c, more) for name, c in self._columns.items()}
        self.depth, self.state = _longer(self.depth, more), _longer(self.state, more)
        self._free = _longer(self._free, more)
        self._places = np.zeros(len(self._columns), _COLUMN)
        self._places["rows"] = addresses_of(self._columns.values())
        self._places["size"] = self._sizes
        self._record["columns"] = address_of(self._places)
        self._record["n_columns"] = len(self._places)
        for name in ("flow_id", "ready_ns", "reason", "packets"):
            self._record[name] = address_of(self._columns[name])
        self._record["ranks"] = self._columns["packets"].shape[1]
        for name in ("depth", "state"):
            self._record[name] = address_of(getattr(self, name))
        self._record["free"] = address_of(self._free)
        self.free(np.arange(old + more, old, -1) - 1)


def _longer(column: np.ndarray, more: int) -> np.ndarray:
    longer = np.zeros((len(column) + more, *column.shape[1:]), column.dtype)
    longer[: len(column)] = column
    return longer
