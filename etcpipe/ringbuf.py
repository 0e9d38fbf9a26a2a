"""A BPF ring buffer as a source of packet batches: the cheap way from the kernel.

The kernel's programs write each packet as struct packet_record straight into memory that it
shares with us: no clone, no mirror device, no socket. The frames stay there; what receive()
hands out are views. All access to the positions, with the barriers it needs, is in
etcpipe/native/ringbuf.c.
"""

import mmap

import numpy as np

from etcpipe import _native
from etcpipe.batch import PacketBatch
from etcpipe.columns import PacketColumns
from etcpipe.errors import DataplaneError, UsageError
from etcpipe.layout import CONSTANTS
from etcpipe.receiver import Receiver

BATCH_MAX = CONSTANTS["BATCH_MAX"]


class RingBuffer(Receiver):
    """The consuming end of a map of type BPF_MAP_TYPE_RINGBUF; a context manager.

    A packet for which there was no room is counted by the program that met the full ring
    (PACKETS_RINGBUF_FULL), not here.

    Args:
        fd: the map; it may be closed once this returns.
        size: bytes of its data, the map's max_entries.
        idle_s: receive() returns an empty batch when nothing came for so long.

    Raises:
        UsageError: the size is not a power of two and a multiple of the page size.
        DataplaneError: the map is no ring buffer of that size.
    """

    def __init__(self, fd: int, size: int, idle_s: float = 0.1):
        page = mmap.PAGESIZE
        if size < page or size & (size - 1):
            raise UsageError(f"ring buffer of {size} bytes: a power of two from {page}")
        self._idle_ns = round(idle_s * 1e9)
        self._columns = PacketColumns(BATCH_MAX)
        try:
            # the consumer's position, which we write; then, for reading only, the producer's
            # and the data twice in a row, so that a record at the end is in one piece
            consumer = mmap.mmap(fd, page)
            records = mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        except (OSError, ValueError) as error:
            raise DataplaneError(f"cannot map the ring buffer: {error}") from error
        self._consumer = np.frombuffer(consumer, np.uint64)
        self._memory = np.frombuffer(records, np.uint8)
        self._ringbuf: object | None = _native.ringbuf_open(
            self._consumer.ctypes.data, self._memory.ctypes.data, page, size
        )

    def receive(self, max_packets: int = BATCH_MAX, deadline_s: float = 0.001) -> PacketBatch:
        """Return the packets that have come, after waiting for a batch to fill.

        Waits until max_packets are there or the oldest is deadline_s old. The batch is
        empty if nothing came for idle_s. Its columns and frames are valid until the next
        call, which gives their room back to the kernel.

        Raises:
            UsageError: max_packets is not 1 .. BATCH_MAX.
            ValueError: the ring buffer is closed.
        """
        if not 1 <= max_packets <= BATCH_MAX:
            raise UsageError(f"max_packets {max_packets}: 1 to {BATCH_MAX}")
        if self._ringbuf is None:
            raise ValueError("the ring buffer is closed")
        n = _native.ringbuf_receive(
            self._ringbuf,
            self._columns.address,
            max_packets,
            round(deadline_s * 1e9),
            self._idle_ns,
        )
        self._is_drained = n < max_packets
        return self._columns.live_batch(self._memory, n)

    def copy(self, records: np.ndarray, deadline_s: float = 0.001) -> int:
        """Fill rows with records that all have one size, as receive() waits; return how many.

        Args:
            records: (n,) of the records' dtype, which begins as PACKET_META does.

        Raises:
            ValueError: the ring buffer is closed.
        """
        if self._ringbuf is None:
            raise ValueError("the ring buffer is closed")
        n = _native.ringbuf_copy(
            self._ringbuf,
            records.ctypes.data,
            records.itemsize,
            len(records),
            round(deadline_s * 1e9),
            self._idle_ns,
        )
        self._is_drained = n < len(records)
        return n

    def statistics(self) -> dict[str, int]:
        """Return what was not delivered by reason: nothing, the programs count all of it."""
        return {}

    def close(self) -> None:
        """Read no more. Batches that were handed out stay readable."""
        self._ringbuf = None
