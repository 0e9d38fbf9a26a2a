"""Regrouping in C (etcpipe/native/regroup.c): checks arrays and hands over their addresses.

With several threads each has a regroup of its own, which sees every batch whole and takes the
packets of its flows; C works without the interpreter's lock.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.columns import DTYPES
from etcpipe.gpu.mask import MASKS
from etcpipe.gpu.regroup import COUNTERS, EXPIRE_MAX, GRACE_NS, Settings
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS

COLUMNS = {name: np.dtype(dtype) for name, dtype in DTYPES.items()}
BYTES = np.dtype(np.uint8)
NOW_NEWEST = (1 << 64) - 1  # of etcpipe/native/regroup.h: the batch's newest packet is the time


class Backend:
    """See etcpipe.gpu.regroup."""

    def __init__(self, settings: Settings):
        self._settings = settings
        threads = settings.threads
        self._shards = [_new(settings, shard) for shard in range(threads)]
        self._others = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._nothing = self._rows(0)

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch:
        n = len(batch)
        _check("memory", batch.memory, BYTES, len(batch.memory))
        columns = [getattr(batch, name) for name in COLUMNS]
        for (name, dtype), column in zip(COLUMNS.items(), columns, strict=True):
            _check(name, column, dtype, n)
        addresses = _addresses(columns)
        now = NOW_NEWEST if now_ns is None else now_ns
        arguments = (
            batch.memory.ctypes.data,
            len(batch.memory),
            addresses.ctypes.data,
            n,
            batch.link_type,
            now,
        )
        return self._take(lambda shard: _native.regroup_add(shard, *arguments))

    def expire(self, now_ns: int) -> FlowBatch:
        return self._take(lambda shard: _native.regroup_expire(shard, now_ns))

    def flush(self) -> FlowBatch:
        return self._take(_native.regroup_flush)

    @property
    def counters(self) -> dict[str, int]:
        each = [_native.regroup_counters(shard)[0] for shard in self._shards]
        return dict(zip(COUNTERS, map(sum, zip(*each, strict=True)), strict=True))

    @property
    def pending(self) -> int:
        return sum(_native.regroup_counters(shard)[1] for shard in self._shards)

    def _take(self, close: Callable[[object], int]) -> FlowBatch:
        """Return the rows that `close` closed in each shard."""
        closed = self._each(lambda i: close(self._shards[i]))
        flows = sum(closed)
        if not flows:
            return self._nothing
        rows = self._rows(flows)
        columns = list(vars(rows).values())
        first = [sum(closed[:i]) for i in range(len(closed))]

        def take(i: int) -> None:
            addresses = _addresses([column[first[i] :] for column in columns])
            _native.regroup_take(self._shards[i], closed[i], addresses.ctypes.data)

        self._each(take)
        return rows

    def _each(self, work: Callable[[int], int | None]) -> list:
        """Return what `work` returns for each shard's number, all at the same time."""
        if self._others is None:
            return [work(0)]
        others = [self._others.submit(work, i) for i in range(1, len(self._shards))]
        return [work(0), *(other.result() for other in others)]

    def _rows(self, flows: int) -> FlowBatch:
        """Return room for rows, in the order of struct flow_columns in native/regroup.h."""
        first_n, raw_len = self._settings.first_n, self._settings.raw_len
        return FlowBatch(
            flow_id=np.empty(flows, np.uint64),
            key=np.empty(flows, FLOW_KEY),
            initiator=np.empty(flows, np.uint8),
            vlan=np.empty(flows, np.uint16),
            ifindex=np.empty(flows, np.uint32),
            packets=np.empty((flows, first_n), PACKET_FIELDS),
            raw=np.empty((flows, first_n, raw_len), np.uint8),
            lost=np.empty(flows, np.uint16),
            reason=np.empty(flows, np.uint8),
            ready_ns=np.empty(flows, np.uint64),
        )


def _new(settings: Settings, shard: int) -> object:
    return _native.regroup_new(
        settings.first_n,
        settings.raw_len,
        settings.slots,
        -(-settings.max_rows // settings.threads),
        settings.wait_ns,
        GRACE_NS,
        EXPIRE_MAX,
        MASKS.index(settings.mask),
        settings.parse,
        settings.threads,
        shard,
    )


def _check(name: str, column: np.ndarray, dtype: np.dtype, length: int) -> None:
    if column.dtype != dtype or column.shape != (length,) or not column.flags.c_contiguous:
        raise ValueError(f"{name} must be a contiguous array of {length} {dtype}")


def _addresses(arrays: list[np.ndarray]) -> np.ndarray:
    return np.array([array.ctypes.data for array in arrays], np.uint64)
