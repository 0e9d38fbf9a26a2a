"""Staging: how frames and tables get to a GPU and back without anybody waiting for long.

    frames   memory that the GPU can read as it is (the UMEM, registered once) is read in place;
             of other memory a batch's frames are copied
    uploads  go through pinned memory: the caller's array is free again at once. Two buffers
             take turns, and each is written again only after the event behind its last copy
    results  come back through two more: one is copied out of while the other is filled. What
             is read later has a buffer of its own until it is taken
    kernels  that follow each other in every batch become a CUDA graph, launched by one call

All work of a StagedDevice is in one stream, so in order. read() returns after the event behind
its copy, and so behind every kernel before it: when a batch's state was read, its frames can be
recycled. A branch has a stream of its own: it makes scores of one batch, and copies rows out,
while the next batch is staged and regrouped (gpu/regroup_output_gpu.py).
"""

import mmap
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from etcpipe.errors import UnsupportedError
from etcpipe.gpu.cuda import Launch

BUFFER_BYTES = 4 << 20
BRANCH_BUFFER_BYTES = 64 << 10  # of a branch, which uploads records
# What is registered stays so: memory that comes and goes is copied.
REGISTERED_MAX = 64
GRAPHS_MAX = 64


class Cuda(Protocol):
    """The calls that staging makes. copy, launch, record and replay only put work in the stream.

    Attributes:
        processors: multiprocessors of the device.
        stream: the CuPy stream that the work is put in.
    """

    processors: int
    stream: Any

    def allocate(self, size: int) -> int:
        """Return the address of zeroed bytes on the device that live as it does."""
        ...

    def pinned(self, size: int) -> np.ndarray:
        """Return (size,) uint8 of the host's memory that the device copies from and to itself."""
        ...

    def register(self, address: int, size: int) -> int:
        """Let kernels read the host's memory; return where they find it.

        Raises:
            UnsupportedError: the driver refuses; says why.
        """
        ...

    def unregister(self, address: int) -> None:
        """Undo register(), after all work that was put in the stream."""
        ...

    def copy(self, to: int, source: int, size: int) -> None:
        """Copy bytes between the host's pinned memory and the device's, either way."""
        ...

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        """Run a kernel."""
        ...

    def capture(self, launches: Sequence[Launch]) -> Any:
        """Return a graph of kernels, none of which is run now."""
        ...

    def replay(self, graph: Any) -> None:
        """Run a graph."""
        ...

    def branch(self) -> "Cuda":
        """Return the same device and kernels with another stream."""
        ...

    def follow(self, event: Any) -> None:
        """Let work from now on begin after an event of another stream."""
        ...

    def event(self) -> Any:
        """Return an event that nothing has to be waited for."""
        ...

    def record(self, event: Any) -> None:
        """Let the event come when the work so far is done."""
        ...

    def wait(self, event: Any) -> None:
        """Return when the event has come."""
        ...


class _Buffer:
    """Pinned memory, and the event behind the last copy from or to it."""

    def __init__(self, cuda: Cuda, size: int):
        self._cuda = cuda
        self.bytes = cuda.pinned(size)
        self.address = self.bytes.ctypes.data
        self.event = cuda.event()
        self.used = 0

    def close(self) -> None:
        """Note that all copies so far have been asked for."""
        self._cuda.record(self.event)

    def reopen(self) -> None:
        """Wait until they are done."""
        self._cuda.wait(self.event)
        self.used = 0


class _Reading:
    """Bytes on their way to the host, through a buffer that is given back when they are taken."""

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
        copied_because: why the frames of the last memory asked for are copied, "" if they
            are read in place.
        stream: the CuPy stream that all work is in.
    """

    def __init__(self, cuda: Cuda, buffer_bytes: int = BUFFER_BYTES):
        self.processors = cuda.processors
        self.stream = cuda.stream
        self.copied_because = ""
        self._cuda = cuda
        self._size = buffer_bytes
        self._uploads = [_Buffer(cuda, buffer_bytes) for _ in range(2)]
        self._results = [_Buffer(cuda, buffer_bytes) for _ in range(2)]
        self._free: dict[int, list[_Buffer]] = {}  # for what is read later, by their size
        # By address and size: the memory, which must not go before, and where kernels see it.
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
        """Run kernels that follow each other, by a graph from the second time on.

        The first time loads them, which must not happen within a capture.
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
        """Return where kernels can read memory of the host in place, None: copy it.

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
        """Register memory, or return why it is not."""
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
        """Copy at most a buffer's bytes to the device."""
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
