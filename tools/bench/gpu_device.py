"""What gpu.py measures on a GPU: etcpipe's transfers and latency, and the link itself."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
from common import Samples
from flow_load import Case, Load

from etcpipe.errors import UnsupportedError
from etcpipe.gpu.cuda import Device, Launch
from etcpipe.gpu.inference import Runner, open_runner
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS

NETWORKS = Path(__file__).resolve().parents[2] / "tests" / "networks.py"
LATENCY_VIEW = VIEWS["raw"]
LINK_BYTES = 64 << 20
LINK_COPIES = 10


@dataclass
class There:
    """A Reading that is done."""

    array: np.ndarray

    def bytes(self) -> np.ndarray:
        return self.array


@dataclass
class TimedDevice:
    """A Device that adds up the seconds of its copies, kernels before them not included.

    Nothing goes on beside anything else: it is its own branch.
    """

    device: Device
    synchronize: Callable[[], None]
    processors: int = 0
    stream: Any = None
    copies_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.processors, self.stream = self.device.processors, self.device.stream

    def allocate(self, size: int) -> int:
        return self.device.allocate(size)

    def write(self, address: int, array: np.ndarray) -> None:
        self._copy(self.device.write, address, array)

    def read(self, address: int, array: np.ndarray) -> None:
        self._copy(self.device.read, address, array)

    def read_later(self, address: int, size: int) -> There:
        there = There(np.empty(size, np.uint8))
        self.read(address, there.array)
        return there

    def branch(self) -> "TimedDevice":
        return self

    def mark(self) -> None:
        return None

    def follow(self, mark: None) -> None:
        pass

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


class TimedRunner:
    """A runner that notes when its rows are there, and when their scores are.

    Attributes:
        features, logits: events of the last call.
    """

    def __init__(self, runner: Runner, event: Callable[[], Any]):
        self.device, self.engine = runner.device, runner.engine
        self.features, self.logits = event(), event()
        self._runner = runner

    def infer_device(self, rows: Any, stream: Any) -> Any:
        self.features.record(stream)
        scores = self._runner.infer_device(rows, stream)
        self.logits.record(stream)
        return scores


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

    def latencies(self, load: Load, case: Case, runs: int) -> dict[str, Samples]:
        """Return seconds from a batch's last packet to features on the GPU, and to logits.

        Taken by events of CUDA in the streams that the work is in. The model is a small
        convolution over the bytes of the view raw.

        Args:
            load: of one batch.
            case: with the bytes of the view raw.
        """
        from etcpipe.gpu.cuda_cupy import CupyDevice
        from etcpipe.gpu.regroup_gpu import Backend

        device = CupyDevice()
        settings = Regroup(case.first_n, raw_len=case.raw_len, mask="none").settings
        backend = Backend(settings, device)
        event = self._cupy.cuda.Event
        runner = TimedRunner(open_runner(network(), device="gpu"), event)
        scorer = backend.scorer(runner, LATENCY_VIEW, case.first_n, ())
        begin, took = event(), []
        for run in range(runs + 1):
            (batch,) = load.batches(run)
            begin.record(device.stream)
            scorer.take(len(backend.add(batch, None)))
            ends = (runner.features, runner.logits)
            took.append([self._cupy.cuda.get_elapsed_time(begin, end) / 1e3 for end in ends])
        names = (f"raw {case.name}, on the GPU", f"logits, {runner.engine}")
        columns = zip(*took[1:], strict=True)
        return {name: Samples(list(column)) for name, column in zip(names, columns, strict=True)}

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


def network() -> bytes:
    """Return a convolution over the bytes of the view raw, as tests have it."""
    spec = spec_from_file_location("networks", NETWORKS)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cnn()


def open_gpu() -> tuple[Gpu | None, str]:
    """Return the GPU and its name, or None and why there is none."""
    try:
        gpu = Gpu()
    except UnsupportedError as error:
        return None, str(error)
    return gpu, gpu.name
