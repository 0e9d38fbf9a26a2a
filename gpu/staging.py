"""Staging: moves frames and tables to a GPU and back, with as little waiting as possible.

    frames   are read in place if their memory is registered with CUDA (the UMEM is, once);
             otherwise the frames of a batch are copied
    uploads  go through pinned memory, so that the caller may reuse an array at once. Two
             buffers take turns; each is written again only after the event of its last copy
    results  come back through two more buffers: one is read while the other is filled.
             Results that are read later keep a buffer of their own until they are taken
    kernels  that are launched in the same sequence for every batch become a CUDA graph

All work of a StagedDevice is in one stream, and therefore in order. read() waits for the event of
its copy, and so for every kernel before it: once the state of a batch was read, its frames can be
recycled. A branch has a stream of its own, which computes scores of one batch and copies its rows
to the host while the next batch is staged and regrouped (gpu/regroup_output_gpu.py).
"""

import mmap
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from etcpipe.errors import UnsupportedError
from etcpipe.gpu.cuda import Launch

BUFFER_BYTES = 4 << 20
BRANCH_BUFFER_BYTES = 64 << 10  # of a branch, which uploads records only
# Memory stays registered, so after this many pieces further memory is copied.
REGISTERED_MAX = 64
GRAPHS_MAX = 64


class Cuda(Protocol):
    """The CUDA calls of staging. copy, launch, record and replay only enqueue work.

    Attributes:
        processors: multiprocessors of the device.
        stream: the CuPy stream of all work.
    """

    processors: int
    stream: Any

    def allocate(self, size: int) -> int:
        """Return the device address of zeroed bytes that live as long as the device."""
        ...

    def pinned(self, size: int) -> np.ndarray:
        """Return (size,) uint8 of pinned host memory."""
        ...

    def register(self, address: int, size: int) -> int:
        """Register host memory for kernels to read; return its address on the device.

        Raises:
            UnsupportedError: the driver refuses; the message says why.
        """
        ...

    def unregister(self, address: int) -> None:
        """Undo register(), after all enqueued work."""
        ...

    def copy(self, to: int, source: int, size: int) -> None:
        """Copy bytes between pinned host memory and the device, in either direction."""
        ...

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        """Run a kernel."""
        ...

    def capture(self, launches: Sequence[Launch]) -> Any:
        """Return a graph of kernels without running them."""
        ...

    def replay(self, graph: Any) -> None:
        """Run a graph."""
        ...

    def branch(self) -> "Cuda":
        """Return the same device with a stream of its own."""
        ...

    def follow(self, event: Any) -> None:
        """Let later work wait for an event of another stream."""
        ...

    def event(self) -> Any:
        """Return an event that has already come."""
        ...

    def record(self, event: Any) -> None:
        """Record an event behind all work so far."""
        ...

    def wait(self, event: Any) -> None:
        """Wait for an event."""
        ...


class _Buffer:
    """Pinned memory, with the event behind the last copy from or to it."""

    def __init__(self, cuda: Cuda, size: int):
        self._cuda = cuda
        self.bytes = cuda.pinned(size)
        self.address = self.bytes.ctypes.data
        self.event = cuda.event()
        self.used = 0

    def close(self) -> None:
        """Record the event behind all copies so far."""
        self._cuda.record(self.event)

    def reopen(self) -> None:
        """Wait for these copies."""
        self._cuda.wait(self.event)
        self.used = 0


class _Reading:
    """Bytes on their way to the host, in a buffer that is given back when they are taken."""

    def __init__(self, buffer: _Buffer, size: int, free: list[_Buffer]):
        self._buffer: _Buffer | None = buffer
        self._size, self._free = size, free
        self._taken = np.zeros(0, np.uint8)

    def bytes(self) -> np.ndarray:
        if self._buffer is not None:
            self._buffer.reopen()
            self._taken = self._buffer.bytes[: self._size].copy()
            self._free.append(self._buffer)
            self._buffer = None
        return self._taken


class StagedDevice:
    """A Device (see etcpipe.gpu.cuda) whose copies are staged.

    Args:
        cuda: the runtime.
        buffer_bytes: of each of the four pinned buffers, a multiple of 16.

    Attributes:
        copied_because: why frames of the last memory are copied, "" if they are read in
            place.
        stream: the CuPy stream of all work.
    """

    def __init__(self, cuda: Cuda, buffer_bytes: int = BUFFER_BYTES):
        self.processors = cuda.processors
        self.stream = cuda.stream
        self.copied_because = ""
        self._cuda = cuda
        self._size = buffer_bytes
        self._uploads = [_Buffer(cuda, buffer_bytes) for _ in range(2)]
        self._results = [_Buffer(cuda, buffer_bytes) for _ in range(2)]
        self._free: dict[int, list[_Buffer]] = {}  # buffers of later reads, by size
        # (address, size) -> the memory, which must outlive its registration, and its device address
        self._registered: dict[tuple[int, int], tuple[np.ndarray, int]] = {}
        self._refused: dict[tuple[int, int], str] = {}
        weakref.finalize(self, _unregister, cuda, self._registered)
        self._graphs: dict[tuple[Launch, ...], Any] = {}

    def allocate(self, size: int) -> int:
        return self._cuda.allocate(size)

    def write(self, address: int, array: np.ndarray) -> None:
        source = array.reshape(-1).view(np.uint8)
        for start in range(0, len(source), self._size):
            self._upload(address + start, source[start : start + self._size])

    def read(self, address: int, array: np.ndarray) -> None:
        to = array.reshape(-1).view(np.uint8)
        parts = [slice(at, min(at + self._size, len(to))) for at in range(0, len(to), self._size)]
        for i, part in enumerate(parts):
            self._ask_for(self._results[i % 2], address + part.start, part.stop - part.start)
            if i:
                self._hand_over(self._results[(i - 1) % 2], to[parts[i - 1]])
        if parts:
            self._hand_over(self._results[(len(parts) - 1) % 2], to[parts[-1]])

    def read_later(self, address: int, size: int) -> _Reading:
        room = max(mmap.PAGESIZE, 1 << (size - 1).bit_length())
        free = self._free.setdefault(room, [])
        buffer = free.pop() if free else _Buffer(self._cuda, room)
        self._ask_for(buffer, address, size)
        return _Reading(buffer, size, free)

    def branch(self) -> "StagedDevice":
        return StagedDevice(self._cuda.branch(), min(self._size, BRANCH_BUFFER_BYTES))

    def mark(self) -> Any:
        event = self._cuda.event()
        self._cuda.record(event)
        return event

    def follow(self, mark: Any) -> None:
        self._cuda.follow(mark)

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        self._cuda.launch(kernel, blocks, threads, first, second)

    def launch_all(self, launches: Sequence[Launch]) -> None:
        """Run kernels one after the other, as a graph from the second time on.

        The first run loads them, which is forbidden during a capture.
        """
        key = tuple(launches)
        if key in self._graphs:
            if self._graphs[key] is None:
                self._graphs[key] = self._cuda.capture(key)
            self._cuda.replay(self._graphs[key])
            return
        if len(self._graphs) < GRAPHS_MAX:
            self._graphs[key] = None
        for launch in key:
            self._cuda.launch(*launch)

    def map(self, memory: np.ndarray) -> int | None:
        """Return the address by which kernels can read host memory in place; None: copy it.

        The memory is registered when it is first seen and kept from then on.
        """
        key = (memory.ctypes.data, memory.nbytes)
        if key not in self._registered:
            self.copied_because = self._register(memory)
        if key not in self._registered:
            return None
        self.copied_because = ""
        return self._registered[key][1]

    def _register(self, memory: np.ndarray) -> str:
        """Register memory, or return why that is impossible."""
        key = address, size = memory.ctypes.data, memory.nbytes
        if address % mmap.PAGESIZE or size % mmap.PAGESIZE or not size:
            return "the memory is not of whole pages"
        if len(self._registered) + len(self._refused) >= REGISTERED_MAX:
            return f"{REGISTERED_MAX} areas of memory were seen before"
        if key not in self._refused:
            try:
                self._registered[key] = (memory, self._cuda.register(address, size))
            except UnsupportedError as error:
                self._refused[key] = str(error)
        return self._refused.get(key, "")

    def _upload(self, address: int, source: np.ndarray) -> None:
        """Copy at most one buffer of bytes to the device."""
        buffer = self._uploads[0]
        if buffer.used + len(source) > self._size:
            buffer.close()
            self._uploads.reverse()
            buffer = self._uploads[0]
            buffer.reopen()
        start = buffer.used
        buffer.bytes[start : start + len(source)] = source
        self._cuda.copy(address, buffer.address + start, len(source))
        buffer.used = -(-(start + len(source)) // 16) * 16

    def _ask_for(self, buffer: _Buffer, address: int, size: int) -> None:
        self._cuda.copy(buffer.address, address, size)
        buffer.close()

    def _hand_over(self, buffer: _Buffer, to: np.ndarray) -> None:
        buffer.reopen()
        to[:] = buffer.bytes[: len(to)]


def _unregister(cuda: Cuda, registered: dict[tuple[int, int], tuple[np.ndarray, int]]) -> None:
    for address, _ in registered:
        cuda.unregister(address)
    registered.clear()
