"""As much of CuPy as the runners use, on the host: a device pointer is a host pointer.

Work that goes into a stream is done at once, or kept while the stream is captured. Memory
is poisoned, so that a row which nobody wrote is noticed.
"""

import ctypes
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

POISON = 0xCD


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Array(np.ndarray):
    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, rows, stream=None):
        assert rows.flags.c_contiguous and rows.shape == self.shape and rows.dtype == self.dtype
        self[...] = rows

    @property
    def __cuda_array_interface__(self):
        address = (self.ctypes.data, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": address, "version": 3}

    def get(self, stream=None):
        return np.array(self)


class Graph:
    def __init__(self, work: list[Callable[[], None]]):
        self.work, self.launches = work, 0

    def launch(self, stream):
        self.launches += 1
        for step in self.work:
            stream.enqueue(step)


class Stream:
    """A stream; by_pointer finds it again, as the driver does."""

    by_pointer: dict[int, "Stream"] = {}  # noqa: RUF012
    refuses_capture = False

    def __init__(self, non_blocking: bool = False):
        self.ptr = 4096 + len(self.by_pointer)
        self.by_pointer[self.ptr] = self
        self.captured: list[Callable[[], None]] | None = None
        self.graphs: list[Graph] = []
        self.waits: list[object] = []
        self.synchronized = 0

    def enqueue(self, step: Callable[[], None]) -> None:
        if self.captured is None:
            step()
        else:
            self.captured.append(step)

    def begin_capture(self):
        if self.refuses_capture:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported")
        self.captured = []

    def end_capture(self):
        assert self.captured is not None
        self.graphs.append(Graph(self.captured))
        self.captured = None
        return self.graphs[-1]

    def synchronize(self):
        assert self.captured is None, "a captured stream must not be waited for"
        self.synchronized += 1

    def record(self):
        return ("event of", self)

    def wait_event(self, event):
        self.waits.append(event)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def empty(shape, dtype):
    array = np.empty(shape, dtype).view(Array)
    array.view(np.uint8).fill(POISON)
    return array


def zeros(shape, dtype):
    return np.zeros(shape, dtype).view(Array)


def asarray(rows):
    """Host arrays are copied; what says that it is on the device is taken as it is."""
    if isinstance(rows, Array):
        return rows
    there = getattr(rows, "__cuda_array_interface__", None)
    if there is not None:
        size = int(np.prod(there["shape"])) * np.dtype(there["typestr"]).itemsize
        memory = (ctypes.c_char * size).from_address(there["data"][0])
        array = np.frombuffer(memory, there["typestr"]).reshape(there["shape"]).view(Array)
        array.owner = rows  # memory lives as long as somebody looks at it
        return array
    return np.array(rows).view(Array)


def asnumpy(rows):
    return np.array(rows)


class Event:
    """Comes when the stream gets to it, and knows when that was."""

    def record(self, stream):
        self.at_s = None
        stream.enqueue(self._come)

    def _come(self):
        self.at_s = time.perf_counter()


def elapsed_ms(start, end):
    assert start.at_s is not None and end.at_s is not None, "cudaErrorNotReady"
    return (end.at_s - start.at_s) * 1e3


class Memory:
    def __init__(self, size):
        self.bytes = np.full(size, POISON, np.uint8)
        self.ptr = self.bytes.ctypes.data


def memcpy(to, source, size, kind):
    ctypes.memmove(to, source, size)


cuda = SimpleNamespace(
    Stream=Stream,
    Event=Event,
    get_elapsed_time=elapsed_ms,
    alloc=Memory,
    alloc_pinned_memory=Memory,
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        deviceSynchronize=lambda: None,
        memcpy=memcpy,
        memcpyHostToDevice=1,
    ),
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
)
