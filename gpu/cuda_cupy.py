"""The GPU as a Device, through CuPy; its kernels need no compiler where they were shipped."""

from typing import Any

import numpy as np

from etcpipe.errors import UnsupportedError
from etcpipe.gpu import cuda_device
from etcpipe.gpu.cuda_compile import kernels

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # enum cudaMemcpyKind


class CupyDevice:
    """See etcpipe.gpu.cuda.Device. Everything is done on the default stream.

    Raises:
        UnsupportedError: no GPU, no CuPy, or no kernels for this GPU.
    """

    def __init__(self) -> None:
        found = cuda_device.find()
        try:
            import cupy
        except ImportError as error:
            raise UnsupportedError(f"{found}: install CuPy (cupy-cuda13x) to use it") from error
        self._cupy = cupy
        self._module = cupy.RawModule(path=str(kernels(found.capability)))
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
        memory.memset(0, size)
        self._memory.append(memory)
        return memory.ptr

    def write(self, address: int, array: np.ndarray) -> None:
        self._copy(address, array.ctypes.data, array.nbytes, HOST_TO_DEVICE)

    def read(self, address: int, array: np.ndarray) -> None:
        self._copy(array.ctypes.data, address, array.nbytes, DEVICE_TO_HOST)

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        if kernel not in self._kernels:
            self._kernels[kernel] = self._module.get_function(kernel)
        self._kernels[kernel]((blocks,), (threads,), (np.uint64(first), np.uint64(second)))

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        # waits for the kernels before it, and until the copy is done
        self._cupy.cuda.runtime.memcpy(to, source, size, kind)
