"""The consuming end of a ring buffer, on memory that plays the kernel's part."""

import mmap
import os
import struct
import threading
import time

import numpy as np
import pytest
from waiting import interrupted, quickest

from etcpipe.errors import DataplaneError, UsageError
from etcpipe.layout import PACKET_META
from etcpipe.ringbuf import RingBuffer

PAGE = mmap.PAGESIZE
SIZE = 4 * PAGE
BUSY, DISCARD, HEADER = 1 << 31, 1 << 30, 8


class Kernel:
    """Writes records as kernel/bpf/ringbuf.c does, into a file that is mapped like the map.

    The map shows its data twice; in the file both copies are written.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("ringbuf")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self._file = mmap.mmap(self.fd, 2 * PAGE + 2 * SIZE)
        self.position = 0

    @property
    def consumed(self) -> int:
        return struct.unpack_from("<Q", self._file, 0)[0]

    def reserve(self, frame: bytes, size: int = 256, flags: int = 0, **meta: int) -> int:
        """Write a record, its header with these flags; returns where it begins."""
        fields = np.zeros((), PACKET_META)
        for name, value in {"timestamp_ns": time.monotonic_ns(), **meta}.items():
            fields[name] = value
        record = fields.tobytes() + struct.pack("<I4x", len(frame)) + frame
        start = self.position
        self._write(start, struct.pack("<I4x", size | flags) + record)
        self.position += (size + HEADER + 7) // 8 * 8
        struct.pack_into("<Q", self._file, PAGE, self.position)
        return start

    def commit(self, start: int, size: int = 256, flags: int = 0) -> None:
        self._write(start, struct.pack("<I", size | flags))

    def _write(self, position: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            at = (position + i) % SIZE
            self._file[2 * PAGE + at] = self._file[2 * PAGE + SIZE + at] = byte

    def close(self) -> None:
        self._file.close()
        os.close(self.fd)


@pytest.fixture
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.close()


@pytest.fixture
def ring(kernel):
    with RingBuffer(kernel.fd, SIZE, idle_s=0.05) as ring:
        yield ring


def test_a_record_arrives_with_all_that_is_told_of_it(kernel, ring):
    told = dict(flow_id=2**48 - 1, wire_len=1514, rank=9, vlan=0x2064, direction=1, ifindex=7)
    kernel.reserve(b"frame" * 20, **told)
    batch = ring.receive()
    assert {name: int(getattr(batch, name)[0]) for name in told} == told
    assert batch.frame(0).tobytes() == b"frame" * 20
    assert (len(batch), batch.link_type, batch.lost) == (1, 1, {})


def test_records_keep_their_order_over_many_turns(kernel, ring):
    seen = []
    for i in range(300):
        kernel.reserve(i.to_bytes(4, "big") * 30, size=(256, 512)[i % 2], flow_id=i + 1)
        batch = ring.receive(deadline_s=0)
        seen += batch.flow_id.tolist()
        assert batch.frame(0).tobytes() == i.to_bytes(4, "big") * 30
    assert seen == list(range(1, 301))
    assert kernel.position > 5 * SIZE


def test_room_is_given_back_with_the_next_receive(kernel, ring):
    kernel.reserve(b"x")
    ring.receive()
    assert kernel.consumed == 0
    ring.receive()
    assert kernel.consumed == kernel.position == 264


def test_a_record_that_is_still_being_written_holds_those_behind_it(kernel, ring):
    first = kernel.reserve(b"first", flags=BUSY, flow_id=1)
    kernel.reserve(b"second", flow_id=2)
    assert len(ring.receive()) == 0
    kernel.commit(first)
    assert ring.receive().flow_id.tolist() == [1, 2]


def test_a_discarded_record_is_passed_over(kernel, ring):
    kernel.reserve(b"gone", flags=DISCARD, flow_id=1)
    kernel.reserve(b"here", flow_id=2)
    assert ring.receive().flow_id.tolist() == [2]


def test_a_batch_is_cut_at_max_packets(kernel, ring):
    for i in range(6):
        kernel.reserve(b"x", flow_id=i + 1)
    assert ring.receive(max_packets=4).flow_id.tolist() == [1, 2, 3, 4]
    assert not ring.is_drained
    assert ring.receive(max_packets=4).flow_id.tolist() == [5, 6]
    assert ring.is_drained


def test_nothing_comes_gives_an_empty_batch(ring):
    assert len(ring.receive()) == 0
    assert 0.04 < quickest(ring.receive) < 2


def test_a_batch_waits_for_the_deadline_of_its_first_packet(kernel, ring):
    def one() -> None:
        kernel.reserve(b"x")
        assert len(ring.receive(deadline_s=0.2)) == 1

    assert 0.2 < quickest(one) < 5
    kernel.reserve(b"x", timestamp_ns=time.monotonic_ns() - 60 * 10**9)
    start = time.monotonic()
    assert len(ring.receive(deadline_s=30)) == 1
    assert time.monotonic() - start < 10


def test_other_threads_run_while_it_waits(kernel, ring):
    ticks: list[float] = []
    ending = threading.Event()

    def tick() -> None:
        while not ending.wait(0.001):
            ticks.append(time.monotonic())

    def has_ticked() -> bool:
        began = time.monotonic()
        ring.receive()  # for 50 ms
        return sum(began < at < began + 0.04 for at in ticks) > 3

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        assert any(has_ticked() for _ in range(100))  # a busy machine may run none for 50 ms
    finally:
        ending.set()
        thread.join()


def test_an_interrupt_ends_the_wait_and_loses_nothing(kernel, ring):
    kernel.reserve(b"x", flow_id=5)
    with interrupted(after_s=0.05), pytest.raises(KeyboardInterrupt):
        ring.receive(deadline_s=30)
    assert ring.receive().flow_id.tolist() == [5]


def test_a_batch_outlives_the_ring(kernel, ring):
    kernel.reserve(b"still here")
    batch = ring.receive()
    ring.close()
    ring.close()
    assert batch.frame(0).tobytes() == b"still here"
    with pytest.raises(ValueError, match="closed"):
        ring.receive()


@pytest.mark.parametrize("size", [0, PAGE - 1, PAGE // 2, 3 * PAGE])
def test_sizes_are_checked(kernel, size):
    with pytest.raises(UsageError, match="a power of two from"):
        RingBuffer(kernel.fd, size)


def test_what_is_no_ring_buffer_is_refused():
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(DataplaneError, match="cannot map the ring buffer"):
            RingBuffer(read_end, PAGE)
    finally:
        os.close(read_end)
        os.close(write_end)
