"""Regrouping through staging: the same rows, whatever happens to the frames after each batch."""

import dataclasses
import mmap
import random

import numpy as np
import pytest
from cuda_shim import ShimDevice
from frames import rows_of, split
from lazy_cuda import LazyCuda
from test_regroup_agree import cuts, random_packets

from etcpipe.batch import PacketBatch
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.regroup_gpu import Backend
from etcpipe.gpu.staging import StagedDevice

OPTIONS = {"first_n": 6, "raw_len": 100, "slots": 64, "max_rows": 500, "wait_s": 0.2}
PACKETS = 600


def in_umem(batch: PacketBatch) -> PacketBatch:
    """The batch with its frames in memory of whole pages, as those of a ring."""
    size = -(-len(batch.memory) // mmap.PAGESIZE) * mmap.PAGESIZE
    umem = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    umem[: len(batch.memory)] = batch.memory
    return dataclasses.replace(batch, memory=umem)


def recycled(batches: list[PacketBatch], umem: np.ndarray):
    """Yield batches; the frames of each are overwritten when the next one is asked for."""
    kept = umem.copy()
    for part in batches:
        umem[:] = kept
        yield part
        umem[:] = 0xEE


@pytest.mark.parametrize("refuses", ["", "not supported"], ids=["in place", "copied"])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_rows_are_those_of_the_definition(seed: int | None, refuses: str) -> None:
    rng = random.Random(seed)
    packets = in_umem(random_packets(rng, PACKETS, 40))
    batches = split(packets, cuts(rng, PACKETS))
    reference = Regroup(**OPTIONS, device="reference")
    expected = [rows_of([reference.add(part)]) for part in batches]

    cuda = LazyCuda(ShimDevice(), seed, refuses)
    device = StagedDevice(cuda, buffer_bytes=1 << 16)
    backend = Backend(reference.settings, device)
    rows = [rows_of([backend.add(part, None)]) for part in recycled(batches, packets.memory)]
    assert rows == expected
    assert rows_of([backend.flush()]) == rows_of([reference.flush()])
    assert backend.counters == reference.counters
    assert device.copied_because == refuses
    assert cuda.names().count("register") == 1
    frames = [source for name, _, source, _ in cuda.calls_of("copy")]
    assert not any(
        0 <= source - packets.memory.ctypes.data < len(packets.memory) for source in frames
    )


def test_a_batch_is_one_graph_from_the_third_on() -> None:
    packets = in_umem(random_packets(random.Random(1), 90, 3))
    cuda = LazyCuda(ShimDevice())
    backend = Backend(Regroup(**OPTIONS, device="reference").settings, StagedDevice(cuda))
    kernels = ("regroup_parse", "regroup_plan", "regroup_scatter")
    seen = []
    for part in split(packets, [30, 30, 30]):
        before = len(cuda.calls)
        backend.add(part, None)
        calls = [call for call in cuda.calls[before:] if call[1] in kernels]
        seen.append([call[0] for call in calls])
    assert seen == [["launch"] * 3, ["capture", "replay"], ["replay"]]
