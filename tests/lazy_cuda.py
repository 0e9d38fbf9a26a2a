"""A CUDA runtime for tests, as late as one may be: work in a stream is done when waited for.

Device memory and kernels are those of another Device, the host's shim for one. Whatever touches
pinned memory, or frames, before the event behind the copies and kernels that use it, changes
what comes out.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
from cuda_shim import ShimDevice
from trt_stub.fake_cupy import Stream

from etcpipe.errors import UnsupportedError
from etcpipe.gpu.cuda import Device
from etcpipe.gpu.staging import Launch, StagedDevice

POISON = 0xCD


class LazyStream(Stream):
    """The stream of a LazyCuda, as the runners of models see it."""

    def __init__(self, cuda: "LazyCuda"):
        super().__init__(non_blocking=True)
        self._cuda = cuda

    def enqueue(self, step: Callable[[], None]) -> None:
        if self.captured is None:
            self._cuda.later(step)
        else:
            super().enqueue(step)

    def synchronize(self) -> None:
        super().synchronize()
        self._cuda.drain()


class LazyCuda:
    """A Cuda of etcpipe.gpu.staging.

    Args:
        device: has the memory and runs the kernels.
        seed: now and then some work is done before anybody waits; None: never.
        refuses: why host memory is not registered, "" if it is.

    Attributes:
        calls: what was asked for, in order, by name.
    """

    def __init__(self, device: Device, seed: int | None = None, refuses: str = ""):
        self.processors = device.processors
        self.calls: list[tuple] = []
        self._device = device
        self._rng = random.Random(seed) if seed is not None else None
        self._refuses = refuses
        self._pinned: list[np.ndarray] = []
        self._events: list[tuple[LazyCuda, int]] = []  # whose stream, and how far it has to be
        self._begin()

    def _begin(self) -> None:
        self.stream = LazyStream(self)
        self._stream: deque[Callable[[], None]] = deque()
        self._done = self._put = 0

    def branch(self) -> "LazyCuda":
        other = copy(self)
        other._begin()
        return other

    def calls_of(self, *names: str) -> list[tuple]:
        """Return the calls of these names so far."""
        return [call for call in self.calls if call[0] in names]

    def names(self) -> list[str]:
        """Return the calls so far by name."""
        return [name for name, *_ in self.calls]

    def allocate(self, size: int) -> int:
        return self._device.allocate(size)

    def pinned(self, size: int) -> np.ndarray:
        self._pinned.append(np.full(size, POISON, np.uint8))
        return self._pinned[-1]

    def register(self, address: int, size: int) -> int:
        self.calls.append(("register", address, size))
        if self._refuses:
            raise UnsupportedError(self._refuses)
        return address

    def unregister(self, address: int) -> None:
        self.calls.append(("unregister", address))

    def copy(self, to: int, source: int, size: int) -> None:
        self.calls.append(("copy", to, source, size))
        upload, download = self._pinned_at(source, size), self._pinned_at(to, size)
        assert (upload is None) != (download is None), "one side of a copy is pinned memory"
        if upload is not None:
            self.later(lambda: self._device.write(to, upload))
        else:
            self.later(lambda: self._device.read(source, download))

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        self.calls.append(("launch", kernel))
        self.later(lambda: self._device.launch(kernel, blocks, threads, first, second))

    def capture(self, launches: Sequence[Launch]) -> tuple[Launch, ...]:
        self.calls.append(("capture", *(launch[0] for launch in launches)))
        return tuple(launches)

    def replay(self, graph: tuple[Launch, ...]) -> None:
        self.calls.append(("replay", *(launch[0] for launch in graph)))
        for launch in graph:
            self.later(lambda launch=launch: self._device.launch(*launch))

    def event(self) -> int:
        self._events.append((self, 0))
        return len(self._events) - 1

    def record(self, event: int) -> None:
        self.calls.append(("record", event))
        self._events[event] = self, self._put

    def wait(self, event: int) -> None:
        self.calls.append(("wait", event))
        _reach(*self._events[event])

    def follow(self, event: int) -> None:
        self.calls.append(("follow", event))
        there = self._events[event]  # as it is now: it may be recorded again
        self.later(lambda: _reach(*there))

    def is_pinned(self, address: int, size: int) -> bool:
        """Return whether bytes are in pinned memory."""
        return self._pinned_at(address, size) is not None

    def drain(self) -> None:
        """Do all work that was put in the stream."""
        while self._stream:
            self._do_next()

    def later(self, work: Callable[[], None]) -> None:
        self._stream.append(work)
        self._put += 1
        while self._rng and self._stream and self._rng.random() < 0.4:
            self._do_next()

    def _do_next(self) -> None:
        self._stream.popleft()()
        self._done += 1

    def _pinned_at(self, address: int, size: int) -> np.ndarray | None:
        for memory in self._pinned:
            start = address - memory.ctypes.data
            if 0 <= start and start + size <= len(memory):
                return memory[start : start + size]
        return None


def _reach(cuda: LazyCuda, done: int) -> None:
    """Do a stream's work up to some point."""
    while cuda._done < done:
        cuda._do_next()


def lazy_device(seed: int | None = None, device: Device | None = None) -> StagedDevice:
    """Return the shim's kernels, or those of a device, behind staging that is late."""
    return StagedDevice(LazyCuda(device or ShimDevice(), seed))
