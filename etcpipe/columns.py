"""The arrays behind a source's PacketBatches, allocated once and filled by C."""

from collections.abc import Iterable

import numpy as np

from etcpipe import _native
from etcpipe.batch import LINKTYPE_ETHERNET, PacketBatch

# The order of struct packet_columns in etcpipe/native/columns.h.
DTYPES = {
    "offset": np.uint64,
    "captured": np.uint32,
    "wire_len": np.uint32,
    "timestamp_ns": np.uint64,
    "flow_id": np.uint64,
    "rank": np.uint16,
    "direction": np.uint8,
    "vlan": np.uint16,
    "segment_len": np.uint16,
    "ifindex": np.uint32,
}


def address_of(array: np.ndarray) -> int:
    """Return where an array begins, for C; see etcpipe/native/address.c on what this saves.

    Raises:
        ValueError: the array is not contiguous.
    """
    # as bytes where it has fields: NumPy would describe each of them
    return _native.address(array if array.dtype.names is None else array.view(np.uint8))


def addresses_of(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return (arrays,) uint64, where each of them begins."""
    return np.array([address_of(array) for array in arrays], np.uint64)


class PacketColumns:
    """Room for `capacity` packets.

    Attributes:
        address: of the struct packet_columns that points at the arrays.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._arrays = {name: np.zeros(capacity, dtype) for name, dtype in DTYPES.items()}
        self._addresses = addresses_of(self._arrays.values())
        self.address = address_of(self._addresses)
        self._live: dict[int, PacketBatch] = {}

    def batch(
        self,
        memory: np.ndarray,
        n: int,
        *,
        link_type: int = LINKTYPE_ETHERNET,
        lost: dict[str, int] | None = None,
    ) -> PacketBatch:
        """Return the first n rows as views, whose frames are in memory."""
        rows = {name: array[:n] for name, array in self._arrays.items()}
        return PacketBatch(memory=memory, link_type=link_type, lost=lost or {}, **rows)

    def live_batch(self, memory: np.ndarray, n: int) -> PacketBatch:
        """Return batch(memory, n), made once for each n: the memory is always the same.

        A live source's thread wakes up with cold caches every millisecond. To make a batch
        takes 20 us then, as long as to read a hundred packets.
        """
        batch = self._live.get(n)
        if batch is None:
            batch = self._live[n] = self.batch(memory, n)
        return batch
