"""Staging on a runtime that does everything as late as it may: order, buffers, fallbacks."""

import gc
import mmap
import random
from pathlib import Path

import numpy as np
import pytest
from lazy_cuda import LazyCuda

from etcpipe import ring
from etcpipe.capture import Capture
from etcpipe.errors import UnsupportedError
from etcpipe.gpu import cuda_device, staging_gpu
from etcpipe.gpu.staging import REGISTERED_MAX, StagedDevice

BUFFER = 64
RECORDING = Path(__file__).parent / "data" / "lab" / "lab-1.pcap"


class HostDevice:
    """Device memory that is the host's; a kernel adds 1 to the byte at its first address."""

    processors = 2

    def __init__(self):
        self._memory = {}

    def allocate(self, size):
        memory = np.zeros(size, np.uint8)
        self._memory[memory.ctypes.data] = memory
        return memory.ctypes.data

    def write(self, address, array):
        self._at(address, array.nbytes)[:] = array.view(np.uint8)

    def read(self, address, array):
        array.view(np.uint8)[:] = self._at(address, array.nbytes)

    def launch(self, kernel, blocks, threads, first, second):
        self._at(first, 1)[0] += 1

    def _at(self, address, size):
        for start, memory in self._memory.items():
            if start <= address and address + size <= start + len(memory):
                return memory[address - start : address - start + size]
        raise AssertionError("beyond what was allocated")


def staged(seed=None, **options):
    cuda = LazyCuda(HostDevice(), seed, **options)
    return StagedDevice(cuda, BUFFER), cuda


def pages(n=1):
    return np.frombuffer(mmap.mmap(-1, n * mmap.PAGESIZE), np.uint8)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_arrays_can_be_reused_at_once_and_come_back_as_they_were(seed):
    rng = random.Random(seed)
    device, _ = staged(seed)
    there = device.allocate(10_000)
    expected = np.zeros(10_000, np.uint8)
    array = np.empty(300, np.uint8)
    for _ in range(200):
        n, at = rng.randrange(1, 300), rng.randrange(9_700)
        array[:n] = expected[at : at + n] = np.frombuffer(rng.randbytes(n), np.uint8)
        device.write(there + at, array[:n])
        array[:] = 0xEE
    back = np.empty(10_000, np.uint8)
    device.read(there, back)
    assert (back == expected).all()


def test_a_staging_that_does_not_wait_would_be_noticed(monkeypatch):
    device, cuda = staged()
    there = device.allocate(1000)
    monkeypatch.setattr(cuda, "wait", lambda event: None)
    device.write(there, np.arange(200, dtype=np.uint8))
    monkeypatch.undo()
    back = np.empty(200, np.uint8)
    device.read(there, back)
    assert (back != np.arange(200)).any()


def test_upload_buffers_take_turns_and_are_waited_for_when_their_turn_comes():
    device, cuda = staged()
    there = device.allocate(1000)
    whole = np.zeros(BUFFER, np.uint8)
    for _ in range(4):
        device.write(there, whole)
    first, second = 0, 1  # events of the upload buffers
    sources = [source for name, _, source, _ in cuda.calls_of("copy")]
    assert sources[0] == sources[2] != sources[1] == sources[3]
    assert [(name, event) for name, event in cuda.calls_of("record", "wait")] == [
        ("record", first),
        ("wait", second),  # never used: nothing to wait for
        ("record", second),
        ("wait", first),
        ("record", first),
        ("wait", second),
    ]


def test_small_uploads_share_a_buffer():
    device, cuda = staged()
    there = device.allocate(1000)
    for i in range(4):
        device.write(there + 16 * i, np.full(5, i, np.uint8))
    assert cuda.names() == ["copy"] * 4
    assert {(source - cuda.calls[0][2]) % 16 for _, _, source, _ in cuda.calls} == {0}


def test_results_are_copied_out_while_the_next_ones_come():
    device, cuda = staged()
    there = device.allocate(4 * BUFFER)
    device.read(there, np.empty(3 * BUFFER, np.uint8))
    first, second = 2, 3  # events of the result buffers
    assert [call[:1] + call[1:2] * (call[0] != "copy") for call in cuda.calls] == [
        ("copy",),
        ("record", first),
        ("copy",),
        ("record", second),
        ("wait", first),
        ("copy",),
        ("record", first),
        ("wait", second),
        ("wait", first),
    ]


def test_nothing_is_read_before_the_kernels_before_it():
    device, _ = staged()
    there = device.allocate(16)
    for _ in range(5):
        device.launch("add", 1, 1, there, 0)
    byte = np.empty(1, np.uint8)
    device.read(there, byte)
    assert byte == [5]


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_what_is_read_later_is_what_was_there_when_it_was_asked_for(seed):
    device, _ = staged(seed)
    there = device.allocate(64)
    readings = []
    for i in range(20):
        device.write(there, np.full(64, i, np.uint8))
        readings.append(device.read_later(there, 64))
    assert [set(reading.bytes()) for reading in readings] == [{i} for i in range(20)]
    assert set(readings[0].bytes()) == {0}  # a second time


def test_a_buffer_of_what_was_read_is_used_again():
    device, cuda = staged()
    there = device.allocate(5000)
    first = device.read_later(there, 5000)
    device.read_later(there, 5000).bytes()
    second = device.read_later(there, 4100)
    _, taken, again = [to for _, to, _, _ in cuda.calls_of("copy")]
    assert taken == again
    assert (len(first.bytes()), len(second.bytes())) == (5000, 4100)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_branch_sees_what_was_done_before_the_mark_that_it_follows(seed):
    device, _ = staged(seed)
    branch, there = device.branch(), device.allocate(16)
    for i in range(10):
        device.write(there, np.full(16, i, np.uint8))
        branch.follow(device.mark())
        reading = branch.read_later(there, 16)
        device.follow(branch.mark())  # nobody writes before it was read
        device.write(there, np.full(16, 99, np.uint8))
        assert set(reading.bytes()) == {i}


def test_a_branch_that_follows_nobody_would_be_noticed():
    device, _ = staged()
    branch, there = device.branch(), device.allocate(16)
    device.write(there, np.full(16, 7, np.uint8))
    assert set(branch.read_later(there, 16).bytes()) == {0}


def test_kernels_that_come_again_become_a_graph():
    device, cuda = staged()
    there = device.allocate(16)
    sequence = [("add", 1, 1, there, 0), ("again", 1, 1, there, 0)]
    for _ in range(4):
        device.launch_all(sequence)
    device.launch_all([("add", 1, 1, there + 1, 0)])
    byte = np.empty(2, np.uint8)
    device.read(there, byte)
    assert byte.tolist() == [8, 1]
    assert cuda.calls_of("launch", "capture", "replay") == [
        ("launch", "add"),
        ("launch", "again"),
        ("capture", "add", "again"),
        ("replay", "add", "again"),
        ("replay", "add", "again"),
        ("replay", "add", "again"),
        ("launch", "add"),
    ]


def test_memory_is_registered_once():
    device, cuda = staged()
    umem = pages(4)
    places = {device.map(umem) for _ in range(3)}
    assert places == {umem.ctypes.data}
    assert cuda.calls == [("register", umem.ctypes.data, len(umem))]
    assert device.copied_because == ""


def test_the_capture_rings_memory_is_read_in_place_and_that_of_captures_copied():
    device, _ = staged()
    umem = ring._allocate(1024 * ring.FRAME_SIZE)
    assert device.map(umem) == umem.ctypes.data
    batch = next(iter(Capture([RECORDING])))
    assert device.map(batch.memory) is None


def test_registered_memory_outlives_its_owner_and_is_unregistered_first():
    device, cuda = staged()
    umem = pages()
    address = device.map(umem)
    umem = None  # the device refers to it
    assert device.map(np.frombuffer((mmap.mmap(-1, mmap.PAGESIZE)), np.uint8)) != address
    device = None
    gc.collect()
    assert ("unregister", address) in cuda.calls


@pytest.mark.parametrize("memory", [np.zeros(100_000, np.uint8)[17:], pages()[:100], pages()[:0]])
def test_memory_that_is_not_of_whole_pages_is_copied(memory):
    device, cuda = staged()
    assert device.map(memory) is None
    assert device.copied_because == "the memory is not of whole pages"
    assert cuda.calls == []


def test_memory_that_the_driver_refuses_is_copied_and_not_asked_for_again():
    device, cuda = staged(refuses="cudaHostRegister: not supported")
    umem = pages()
    assert [device.map(umem) for _ in range(3)] == [None] * 3
    assert device.copied_because == "cudaHostRegister: not supported"
    assert cuda.names() == ["register"]


def test_memory_that_is_always_another_is_copied_in_the_end():
    device, cuda = staged()
    areas = [pages() for _ in range(REGISTERED_MAX + 2)]
    assert [device.map(area) is None for area in areas] == [False] * REGISTERED_MAX + [True] * 2
    assert "were seen before" in device.copied_because
    assert len(cuda.calls) == REGISTERED_MAX


@pytest.mark.skipif(cuda_device.is_present(), reason="there is a GPU")
def test_without_a_gpu_there_is_one_clear_line():
    with pytest.raises(UnsupportedError, match="no GPU"):
        staging_gpu.copied_because()
