"""The arrays behind a source's PacketBatches, allocated once and filled by C."""

import numpy as np

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


class PacketColumns:
    """Room for `capacity` packets.

    Attributes:
        address: of the struct packet_columns that points at the arrays.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._arrays = {name: np.zeros(capacity, dtype) for name, dtype in DTYPES.items()}
        self._addresses = np.array([a.ctypes.data for a in self._arrays.values()], np.uint64)
        self.address = self._addresses.ctypes.data

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
