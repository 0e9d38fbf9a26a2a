"""What gpu.py measures on a GPU: etcpipe's regrouping, its transfers, and the link itself."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from common import Samples
from flow_load import Case, Load

from etcpipe.errors import UnsupportedError
from etcpipe.gpu.cuda import Device, Launch
from etcpipe.gpu.regroup import Regroup

LINK_BYTES = 64 << 20
LINK_COPIES = 10


@dataclass
class TimedDevice:
    """A Device that adds up the seconds of its copies, kernels before them not included."""

    device: Device
    synchronize: Callable[[], None]
    processors: int = 0
    copies_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.processors = self.device.processors

    def allocate(self, size: int) -> int:
        return self.device.allocate(size)

    def write(self, address: int, array: np.ndarray) -> None:
        self._copy(self.device.write, address, array)

    def read(self, address: int, array: np.ndarray) -> None:
        self._copy(self.device.read, address, array)

    def launch(self, kernel: str, blocks: int, threads: int, first: int, second: int) -> None:
        self.device.launch(kernel, blocks, threads, first, second)

    def launch_all(self, launches: Sequence[Launch]) -> None:
        self.device.launch_all(launches)

    def map(self, memory: np.ndarray) -> int | None:
        return self.device.map(memory)

    def _copy(self, copy: Callable[[int, np.ndarray], None], at: int, array: np.ndarray) -> None:
        self.synchronize()
        start = time.perf_counter()
        copy(at, array)
        self.synchronize()
        self.copies_s += time.perf_counter() - start


class Gpu:
    """The GPU of this machine.

    Raises:
        UnsupportedError: there is none, or it cannot be used.
    """

    def __init__(self) -> None:
        from etcpipe.gpu import cuda_device

        self.name = str(cuda_device.find())
        Regroup(1, device="gpu")
        import cupy

        self._cupy = cupy

    def transfers(self, load: Load, case: Case, runs: int) -> Samples:
        """Return the seconds of a run that its copies take, in both directions."""
        from etcpipe.gpu.cuda_cupy import CupyDevice
        from etcpipe.gpu.regroup_gpu import Backend

        device = TimedDevice(CupyDevice(), self._cupy.cuda.runtime.deviceSynchronize)
        settings = Regroup(case.first_n, raw_len=case.raw_len, mask="none").settings
        backend = Backend(settings, device)
        samples = []
        for run in range(runs + 1):
            before = device.copies_s
            for batch in load.batches(run):
                backend.add(batch, None)
            samples.append(device.copies_s - before)
        return Samples(samples[1:])

    def link_bytes_a_second(self) -> float:
        """Return the rate of one plain copy from pinned memory, the best of some."""
        runtime = self._cupy.cuda.runtime
        host = self._cupy.cuda.alloc_pinned_memory(LINK_BYTES)
        there = self._cupy.cuda.alloc(LINK_BYTES)
        took = []
        for _ in range(LINK_COPIES):
            runtime.deviceSynchronize()
            start = time.perf_counter()
            runtime.memcpy(there.ptr, host.ptr, LINK_BYTES, runtime.memcpyHostToDevice)
            runtime.deviceSynchronize()
            took.append(time.perf_counter() - start)
        return LINK_BYTES / min(took)


def open_gpu() -> tuple[Gpu | None, str]:
    """Return the GPU and its name, or None and why there is none."""
    try:
        gpu = Gpu()
    except UnsupportedError as error:
        return None, str(error)
    return gpu, gpu.name
