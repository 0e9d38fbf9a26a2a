"""The AF_XDP socket as a source of packet batches: where mirrored packets arrive.

The kernel writes frames into memory that it shares with us (the UMEM) and a descriptor of
each into a ring. receive() waits for a batch, reads the metadata that the mirror's program
left before each frame into columns, and hands out views; frames are never copied. All
access to the rings, with the barriers it needs, is in etcpipe/native/xsk.c.
"""

import errno
import mmap
import time
from contextlib import suppress

import numpy as np

from etcpipe import _native
from etcpipe.batch import PacketBatch
from etcpipe.columns import PacketColumns
from etcpipe.errors import (
    DataplaneError,
    EtcpipeError,
    PermissionDeniedError,
    UnsupportedError,
    UsageError,
)
from etcpipe.layout import CONSTANTS
from etcpipe.receiver import Receiver

BATCH_MAX = CONSTANTS["BATCH_MAX"]
LENT_MAX = 2  # batches that are out at a time, XSK_BATCHES of etcpipe/native/xsk.h

# The kernel takes aligned frames of 2048 bytes up to a page. A mirrored frame has at most
# SNAP_LEN_DEFAULT bytes and 256 of headroom: 32 MiB of frames in all, not 64.
FRAME_SIZE = FRAME_SIZE_MIN = 2048
RING_SIZE_MAX = 1 << 20

# How long the socket waits for a queue that its last owner has left but not yet freed.
BUSY_TIMEOUT_S = 5.0
BUSY_RETRY_S = 0.02

STATISTICS = ("rx_dropped", "rx_invalid_descs", "rx_ring_full", "rx_fill_ring_empty_descs")
# Those that mean a packet which did not reach us.
LOSSES = ("rx_dropped", "rx_ring_full", "rx_fill_ring_empty_descs")


class Ring(Receiver):
    """An AF_XDP socket bound to a queue of a device; a context manager.

    The caller puts fd into the XSKMAP of the program that redirects to it.

    Args:
        ifindex: the device, in the network namespace of the calling thread.
        queue: its receive queue.
        frames: frames in the UMEM, a power of two.
        frame_size: bytes of a frame, a power of two from 2048 to the page size.
        ring_size: descriptors that can wait for us, a power of two, at most frames.
        zero_copy: try zero copy first; copy mode is what every driver can do.
        idle_s: receive() returns an empty batch when nothing came for so long.

    Raises:
        UsageError: a size is none of those.
        PermissionDeniedError: a capability is missing, or the memory lock limit is too low.
        UnsupportedError: the kernel has no AF_XDP.
        DataplaneError: no such device or queue, the queue is in use, no memory.
    """

    def __init__(
        self,
        ifindex: int,
        queue: int = 0,
        frames: int = 16_384,
        frame_size: int = FRAME_SIZE,
        ring_size: int = 8_192,
        *,
        zero_copy: bool = False,
        idle_s: float = 0.1,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ):
        _check_sizes(frames, frame_size, ring_size)
        self._where = f"queue {queue} of interface {ifindex}"
        self._idle_ns = round(idle_s * 1e9)
        self._columns = [PacketColumns(BATCH_MAX) for _ in range(LENT_MAX)]
        self._lent: list[PacketBatch | None] = [None] * LENT_MAX
        self._memory = _allocate(frames * frame_size)
        try:
            self._xsk = _native.xsk_open(self._memory.ctypes.data, frames, frame_size, ring_size)
        except OSError as error:
            raise _explain(error, self._where, frames * frame_size) from error
        try:
            _bind(self._xsk, ifindex, queue, zero_copy, busy_timeout_s)
        except OSError as error:
            self.close()
            raise _explain(error, self._where, frames * frame_size) from error
        self._seen: tuple[int, ...] = (0,) * len(STATISTICS)

    @property
    def fd(self) -> int:
        """The socket's file descriptor."""
        return _native.xsk_fd(self._xsk)

    @property
    def zero_copy(self) -> bool:
        """Does the driver write into our memory itself?"""
        return _native.xsk_zero_copy(self._xsk)

    def receive(self, max_packets: int = BATCH_MAX, deadline_s: float = 0.001) -> PacketBatch:
        """Return the packets that have come, after waiting for a batch to fill.

        Waits until max_packets are there or the oldest is deadline_s old; after a batch, as
        packets are flowing, no longer than deadline_s. The batch is empty if nothing came
        for idle_s. It is valid until the next call, with its columns and frames: that gives
        the frames of all batches back to the kernel.

        Raises:
            UsageError: max_packets is not 1 .. BATCH_MAX.
            DataplaneError: the device is gone.
        """
        if not 1 <= max_packets <= BATCH_MAX:
            raise UsageError(f"max_packets {max_packets}: 1 to {BATCH_MAX}")
        try:
            n, has_moved = _native.xsk_receive(
                self._xsk, self._columns[0].address, max_packets, deadline_s, self._idle_ns
            )
        except OSError as error:
            raise _explain(error, self._where) from error
        self._is_drained = n < max_packets
        if has_moved:
            seen, self._seen = self._seen, _native.xsk_statistics(self._xsk)
            lost = _lost_between(seen, self._seen)
            batch = self._columns[0].batch(self._memory, n, lost=lost)
        else:
            batch = self._columns[0].live_batch(self._memory, n)
        self._lent = [batch, *[None] * (LENT_MAX - 1)]
        return batch

    def lend(self) -> PacketBatch | None:
        """Return another batch if a full one has come, beside those that are out.

        It is valid until release(), or the next receive(). None also where LENT_MAX are out.
        """
        if None not in self._lent:
            return None
        place = self._lent.index(None)
        columns = self._columns[place]
        n = _native.xsk_take_full(self._xsk, columns.address, BATCH_MAX, place)
        if not n:
            return None
        self._is_drained = False
        batch = self._lent[place] = columns.live_batch(self._memory, n)
        return batch

    def release(self, batch: PacketBatch) -> None:
        """Give the frames of a batch back to the kernel; nothing happens if it has them."""
        for place, lent in enumerate(self._lent):
            if lent is batch:
                self._lent[place] = None
                _native.xsk_release(self._xsk, place)

    def no_packets(self) -> PacketBatch:
        """Return an empty batch."""
        return PacketColumns(0).batch(self._memory, 0)

    def statistics(self) -> dict[str, int]:
        """Return what the kernel did not deliver since the socket was bound, by reason."""
        return dict(zip(STATISTICS, _native.xsk_statistics(self._xsk), strict=True))

    def close(self) -> None:
        """Free the queue. Batches that were handed out stay readable."""
        _native.xsk_close(self._xsk)


def _lost_between(before: tuple[int, ...], now: tuple[int, ...]) -> dict[str, int]:
    """Return how many packets did not reach us meanwhile, by those reasons that there were."""
    grown = {name: b - a for name, a, b in zip(STATISTICS, before, now, strict=True)}
    return {name: grown[name] for name in LOSSES if grown[name]}


def _check_sizes(frames: int, frame_size: int, ring_size: int) -> None:
    sizes = {"frames": frames, "frame_size": frame_size, "ring_size": ring_size}
    for name, size in sizes.items():
        if size < 1 or size & (size - 1):
            raise UsageError(f"{name} {size}: a power of two")
    if not FRAME_SIZE_MIN <= frame_size <= mmap.PAGESIZE:
        raise UsageError(f"frame_size {frame_size}: {FRAME_SIZE_MIN} to {mmap.PAGESIZE} bytes")
    if not BATCH_MAX <= ring_size <= frames <= RING_SIZE_MAX:
        raise UsageError(
            f"ring_size {ring_size}, frames {frames}: "
            f"{BATCH_MAX} <= ring_size <= frames <= {RING_SIZE_MAX}"
        )


def _allocate(size: int) -> np.ndarray:
    """Return (size,) uint8 of page-aligned memory that lives as long as anybody refers to it."""
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise DataplaneError(f"no memory for {size >> 20} MiB of frames: ask for fewer") from error
    with suppress(OSError):  # a kernel without them; 16,384 frames are more than a TLB holds
        memory.madvise(mmap.MADV_HUGEPAGE)
    memory.madvise(mmap.MADV_DONTFORK)  # a child would only make the kernel copy pinned pages
    return np.frombuffer(memory, np.uint8)


def _bind(xsk: object, ifindex: int, queue: int, zero_copy: bool, timeout_s: float) -> None:
    """Bind, with zero copy first if asked; wait for a queue that is still being freed.

    The kernel tears a socket down in deferred work: its queue stays busy for a moment.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            return _native.xsk_bind(xsk, ifindex, queue, zero_copy)
        except OSError as error:
            if error.errno == errno.EBUSY:
                if time.monotonic() >= end:
                    raise
                time.sleep(BUSY_RETRY_S)
            elif zero_copy:
                zero_copy = False
            else:
                raise


def _explain(error: OSError, where: str, size: int = 0) -> EtcpipeError:
    """Return the error that says what to do about a failed step of the socket."""
    code, step = error.errno or 0, error.strerror
    mib = max(1, size >> 20)
    if code in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError("AF_XDP needs root, or CAP_NET_RAW and CAP_BPF")
    if step == "socket" and code == errno.EAFNOSUPPORT:
        return UnsupportedError("this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)")
    if step == "memory" and code == errno.ENOBUFS:
        return PermissionDeniedError(
            f"{mib} MiB of frames exceed the memory lock limit: "
            "raise it (ulimit -l, LimitMEMLOCK=) or add CAP_IPC_LOCK"
        )
    if code in (errno.ENOMEM, errno.ENOBUFS):
        return DataplaneError(f"no memory for {mib} MiB of frames and their rings: ask for fewer")
    if code == errno.EBUSY:
        return DataplaneError(f"{where} has a consumer already: end it first")
    if code in (errno.ENODEV, errno.ENETDOWN, errno.ENXIO):
        return DataplaneError(f"{where}: the device is gone or down")
    if step == "bind" and code == errno.EINVAL:
        return DataplaneError(f"{where}: there is no such queue")
    return DataplaneError(f"{where}: AF_XDP {step} failed: {errno.errorcode.get(code, code)}")
