"""Two batches on the GPU at a time: what is waited for, and that the rows are the same."""

import mmap
import random

import numpy as np
import pytest
from cuda_shim import ShimDevice
from frames import rows_of, split
from lazy_cuda import LazyCuda
from test_regroup_agree import random_packets

from etcpipe.batch import PacketBatch
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.regroup_gpu import Backend
from etcpipe.gpu.regroup_output_gpu import Output
from etcpipe.gpu.staging import StagedDevice

PACKETS, BATCH = 900, 150


def batches(seed: int) -> list[PacketBatch]:
    packets = random_packets(random.Random(seed), PACKETS, 60)
    return split(packets, [BATCH] * (PACKETS // BATCH))


def in_pages(frames: np.ndarray) -> np.ndarray:
    pages = -(-len(frames) // mmap.PAGESIZE)
    memory = np.frombuffer(mmap.mmap(-1, pages * mmap.PAGESIZE), np.uint8)
    memory[: len(frames)] = frames
    return memory


def regroup_on(cuda: LazyCuda | None, **options) -> Regroup:
    regroup = Regroup(6, 40, slots=64, wait_s=0.05, device="reference", **options)
    if cuda:
        regroup._backend = Backend(regroup.settings, StagedDevice(cuda))
    return regroup


def taken(regroup: Regroup, ahead: int) -> list:
    """The rows of each batch, taken when some more were begun."""
    begun, got = [], []
    for part in batches(5):
        begun.append(regroup.begin(part))
        if len(begun) > ahead:
            got.append(rows_of([begun.pop(0)()]))
    return got + [rows_of([take()]) for take in begun]


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_rows_taken_later_are_the_same(seed, ahead):
    regroup, expected = regroup_on(LazyCuda(ShimDevice(), seed)), regroup_on(None)
    assert taken(regroup, ahead) == taken(expected, 0)
    assert rows_of([regroup.flush()]) == rows_of([expected.flush()])
    assert regroup.counters == expected.counters


@pytest.mark.parametrize("left_out", [(StagedDevice, "follow"), (Output, "free")])
def test_an_order_that_is_left_out_would_be_noticed(left_out, monkeypatch):
    monkeypatch.setattr(*left_out, lambda *_: None)
    assert taken(regroup_on(LazyCuda(ShimDevice())), 4) != taken(regroup_on(None), 0)


def test_frames_are_free_when_a_batch_has_begun():
    regroup, expected = regroup_on(LazyCuda(ShimDevice())), regroup_on(None)
    device, begun = regroup._backend._device, []
    for part in batches(6):
        memory = in_pages(part.memory)  # so kernels read it in place
        begun.append(regroup.begin(PacketBatch(**{**vars(part), "memory": memory})))
        assert device.copied_because == ""
        memory[:] = 0xEE
    assert [rows_of([take()]) for take in begun] == [
        rows_of([expected.add(part)]) for part in batches(6)
    ]


def test_a_batch_is_staged_while_the_rows_of_the_one_before_are_on_their_way():
    cuda = LazyCuda(ShimDevice())
    regroup = regroup_on(cuda)
    begun = []
    for part in batches(7)[:3]:
        before = len(cuda.calls)
        begun.append(regroup.begin(part))
        waited = {event for _, event in cuda.calls_of("wait")}
        made = [call[1] for call in cuda.calls[before:] if call[0] == "record"]
        # the last event recorded is behind the copy of the rows: nobody has waited for it
        assert made[-1] not in waited
    assert all(len(take()) for take in begun)
