"""The CUDA calls of staging, through CuPy."""

import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from etcpipe.errors import DeviceLostError, UnsupportedError
from etcpipe.gpu import cuda_device
from etcpipe.gpu.cuda import Launch
from etcpipe.gpu.staging import StagedDevice

PORTABLE, MAPPED = 1, 2  # flags of cudaHostRegister
ANY_DIRECTION = 4  # cudaMemcpyDefault: the direction follows from the addresses


Call = TypeVar("Call", bound=Callable[..., Any])


def _lost(call: Call) -> Call:
    """Turn CuPy's errors about CUDA in a call into DeviceLostError."""

    @wraps(call)
    def told(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except RuntimeError as error:  # errors of the runtime API and of the driver API
            raise DeviceLostError(f"the GPU failed: {' '.join(str(error).split())}") from error

    return cast(Call, told)


class CupyCuda:
    """See etcpipe.gpu.staging.Cuda.

    Args:
        kernels: the file with the compiled kernels; None: no kernel is launched.

    Raises:
        UnsupportedError: no GPU, or no CuPy.
    """

    def __init__(self, kernels: Path | None = None) -> None:
        found = cuda_device.find()
        try:
            import cupy
        except ImportError as error:
            raise UnsupportedError(f"{found}: install CuPy (cupy-cuda13x) to use it") from error
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self._module: Any = cupy.RawModule(path=str(kernels)) if kernels else None
        self._kernels: dict[str, Any] = {}
        self._memory: list[Any] = []
        self.processors = cupy.cuda.Device().attributes["MultiProcessorCount"]

    def allocate(self, size: int) -> int:
        try:
            memory = self._cupy.cuda.alloc(size)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise UnsupportedError(
                f"the GPU has no {size} bytes left: use fewer rows, or --device cpu"
            ) from error
        memory.memset_async(0, size, self.stream)
        self._memory.append(memory)
        return memory.ptr

    def pinned(self, size: int) -> np.ndarray:
        return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(size), np.uint8, size)

    def register(self, address: int, size: int) -> int:
        try:
            self._runtime.hostRegister(address, size, PORTABLE | MAPPED)
            return self._runtime.pointerGetAttributes(address).devicePointer
        except self._runtime.CUDARuntimeError as error:
            raise UnsupportedError(f"cudaHostRegister: {error}") from error

    def unregister(self, address: int) -> None:
        with suppress(self._runtime.CUDARuntimeError):  # after a failure nothing is left
            self.stream.synchronize()
            self._runtime.hostUnregister(address)

    @_lost
    def copy(self, to: int, source: int, size: int) -> None:
        self._runtime.memcpyAsync(to, source, size, ANY_DIRECTION, self.stream.ptr)

    @_lost
    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        if kernel not in self._kernels:
            self._kernels[kernel] = self._module.get_function(kernel)
        with self.stream:
            self._kernels[kernel]((blocks,), (threads,), (np.uint64(first), np.uint64(second)))

    @_lost
    def capture(self, launches: Sequence[Launch]) -> Any:
        self.stream.begin_capture()
        for launch in launches:
            self.launch(*launch)
        return self.stream.end_capture()

    @_lost
    def replay(self, graph: Any) -> None:
        graph.launch(self.stream)

    def branch(self) -> "CupyCuda":
        other = copy(self)
        other.stream = self._cupy.cuda.Stream(non_blocking=True)
        return other

    @_lost
    def follow(self, event: Any) -> None:
        self.stream.wait_event(event)

    def event(self) -> Any:
        return self._cupy.cuda.Event(disable_timing=True)

    @_lost
    def record(self, event: Any) -> None:
        event.record(self.stream)

    @_lost
    def wait(self, event: Any) -> None:
        event.synchronize()


def copied_because() -> str:
    """Return why the GPU cannot read frames of a capture ring in place, "" if it can.

    Raises:
        UnsupportedError: there is no GPU that can be used.
    """
    device = StagedDevice(CupyCuda(), mmap.PAGESIZE)
    area = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    device.map(np.frombuffer(area, np.uint8))
    return device.copied_because
