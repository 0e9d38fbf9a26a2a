"""CuPy for a process of its own on a machine without a GPU: the shim has its kernels.

With this folder and tests/ on PYTHONPATH, and a driver of trt_stub/cuda.c, whatever asks for a
GPU finds one. It takes what is called as CuPy 14 does, and nothing else.
"""

import ctypes
from types import SimpleNamespace

import numpy as np
from cuda_shim import ShimDevice
from trt_stub import fake_cupy
from trt_stub.fake_cupy import POISON, CUDARuntimeError, asarray, asnumpy, empty, zeros

__all__ = ["RawModule", "asarray", "asnumpy", "cuda", "empty", "zeros"]

DEFAULT = 4  # cudaMemcpyDefault
_streams: list["Stream"] = []  # the current one is the last
_shim: list[ShimDevice] = []


class Stream(fake_cupy.Stream):
    """A stream that kernels go to inside its block."""

    def __enter__(self):
        _streams.append(self)
        return self

    def __exit__(self, *_):
        _streams.pop()


class Event(fake_cupy.Event):
    """An event; what is waited for is done already."""

    def __init__(self, block: bool = True, disable_timing: bool = False):
        pass

    def synchronize(self):
        pass


class Memory(fake_cupy.Memory):
    def memset_async(self, value: int, size: int, stream: Stream):
        assert size == len(self.bytes) and isinstance(stream, Stream)
        self.bytes[:] = value


class Pinned(np.ndarray):
    @property
    def ptr(self) -> int:
        return self.ctypes.data


class RawModule:
    """Any cubin: its kernels are those of the shim."""

    def __init__(self, *, path: str):
        with open(path, "rb") as file:
            assert file.read(4) == b"\x7fELF"

    def get_function(self, name: str):
        def launch(grid: tuple[int], block: tuple[int], arguments: tuple[np.uint64, np.uint64]):
            (blocks,), (threads,) = grid, block
            assert all(isinstance(argument, np.uint64) for argument in arguments)
            addresses = [int(argument) for argument in arguments]
            _streams[-1].enqueue(lambda: _device().launch(name, blocks, threads, *addresses))

        return launch


def _device() -> ShimDevice:
    if not _shim:
        _shim.append(ShimDevice())
    return _shim[0]


def _alloc_pinned(size: int) -> Pinned:
    return np.full(size, POISON, np.uint8).view(Pinned)


def _memcpy_async(to: int, source: int, size: int, kind: int, stream: int) -> None:
    assert kind == DEFAULT
    Stream.by_pointer[stream].enqueue(lambda: ctypes.memmove(to, source, size))


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    deviceSynchronize=lambda: None,
    memcpy=fake_cupy.memcpy,
    memcpyHostToDevice=1,
    memcpyAsync=_memcpy_async,
    hostRegister=lambda address, size, flags: None,
    hostUnregister=lambda address: None,
    pointerGetAttributes=lambda address: SimpleNamespace(devicePointer=address),
)
cuda = SimpleNamespace(
    Stream=Stream,
    Event=Event,
    get_elapsed_time=fake_cupy.elapsed_ms,
    alloc=Memory,
    alloc_pinned_memory=_alloc_pinned,
    Device=lambda: SimpleNamespace(attributes={"MultiProcessorCount": 2}),
    runtime=runtime,
    memory=fake_cupy.cuda.memory,
)
