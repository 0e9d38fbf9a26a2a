"""The AF_XDP ring on a veth pair in a network namespace of its own."""

import ctypes
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from waiting import interrupted, until
from xsk_redirect import Redirect

from etcpipe import _native
from etcpipe.batch import PacketBatch
from etcpipe.errors import DataplaneError, UsageError
from etcpipe.layout import PACKET_META
from etcpipe.ring import BATCH_MAX, LENT_MAX, Ring

CLONE_NEWNET = 0x40000000
FRAME = bytes(range(12)) + b"\x88\xb5" + b"etcpipe ring test" * 4

root = pytest.mark.root


def set_namespace(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.setns(fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


class Pair:
    """Frames sent here arrive at the other end, where the program redirects them."""

    def __init__(self) -> None:
        options = "numtxqueues 1 numrxqueues 1"
        self.run(f"ip link add sender {options} type veth peer name receiver {options}")
        for device in ("sender", "receiver"):
            # no IPv6: its neighbour discovery would be packets that no test sent
            self.run(f"ip link set {device} addrgenmode none mtu 1500")
            self.run(f"ip link set {device} up")
        self.ifindex = socket.if_nametoindex("receiver")
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind(("sender", 0))

    @staticmethod
    def run(command: str) -> None:
        subprocess.run(command.split(), check=True)

    def send_many(self, count: int) -> None:
        """Send some packets, no faster than a veth's queue of 256 is surely emptied."""
        for i in range(count):
            if i % 64 == 0:
                time.sleep(0.002)
            self.send()

    def send(self, frame: bytes = FRAME, **meta: int) -> None:
        fields = np.zeros((), PACKET_META)
        fields["timestamp_ns"] = time.monotonic_ns()
        for name, value in meta.items():
            fields[name] = value
        self._socket.send(fields.tobytes() + frame)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        pair = Pair()
        yield pair
        pair.close()
    finally:
        set_namespace(before)
        os.close(before)


@pytest.fixture
def ring(pair: Pair) -> Iterator[Ring]:
    with Redirect(pair.ifindex) as redirect, Ring(pair.ifindex, idle_s=20) as ring:
        redirect.bind(ring.fd)
        yield ring


@pytest.fixture
def impatient(pair: Pair) -> Iterator[Ring]:
    """A ring that soon gives up waiting."""
    with Redirect(pair.ifindex) as redirect, Ring(pair.ifindex, idle_s=0.05) as ring:
        redirect.bind(ring.fd)
        yield ring


@root
def test_a_packet_arrives_with_its_metadata(pair, ring):
    sent = dict(
        flow_id=2**48 - 1,
        timestamp_ns=time.monotonic_ns(),
        wire_len=1514,
        ifindex=7,
        rank=9,
        vlan=0x2064,
        segment_len=1448,
        direction=1,
    )
    pair.send(**sent)
    batch = ring.receive()
    assert len(batch) == 1
    assert {name: int(getattr(batch, name)[0]) for name in sent} == sent
    assert batch.frame(0).tobytes() == FRAME
    assert batch.captured[0] == len(FRAME)
    assert batch.link_type == 1
    assert batch.lost == {}


@root
def test_packets_keep_their_order_over_batches_and_ring_turns(pair, ring):
    ids: list[int] = []
    inside: list[int] = []
    for start in range(0, 20_000, 100):  # more than there are frames, so they are reused
        for i in range(start + 1, start + 101):
            pair.send(i.to_bytes(14, "big") + bytes(50), flow_id=i)
        while len(ids) < start + 100:
            batch = ring.receive(deadline_s=0)
            assert len(batch), "packets are missing"
            ids += batch.flow_id.tolist()
            frames = [batch.frame(i).tobytes() for i in range(len(batch))]
            inside += [int.from_bytes(frame[:14], "big") for frame in frames]
    assert ids == inside == list(range(1, 20_001))
    assert set(ring.statistics().values()) == {0}


@root
def test_batch_is_cut_at_max_packets(pair, ring):
    for i in range(6):
        pair.send(flow_id=i + 1)
    assert ring.receive(max_packets=3, deadline_s=5).flow_id.tolist() == [1, 2, 3]
    assert ring.receive(max_packets=3, deadline_s=5).flow_id.tolist() == [4, 5, 6]


@root
def test_frames_stay_untouched_until_the_next_receive(pair, ring):
    pair.send(b"first" * 20)
    batch = ring.receive()
    pair.send_many(3000)
    assert batch.frame(0).tobytes() == b"first" * 20


def lent(ring: Ring) -> PacketBatch:
    """Return another batch once it is full."""
    batches: list[PacketBatch | None] = []
    until(lambda: batches.append(ring.lend()) or batches[-1] is not None)
    return batches[-1]


@root
def test_a_full_batch_is_lent_beside_the_one_that_is_out(pair, ring):
    pair.send(b"first" * 20)
    first = ring.receive()
    assert ring.lend() is None
    pair.send_many(2 * BATCH_MAX)
    second = lent(ring)
    assert len(second) == BATCH_MAX and not ring.is_drained
    assert ring.lend() is None  # LENT_MAX are out
    assert first.frame(0).tobytes() == b"first" * 20
    ring.release(first)
    third = lent(ring)
    assert not set(second.offset.tolist()) & set(third.offset.tolist())
    with pytest.raises(ValueError, match="batch 2: 0 to 1"):
        _native.xsk_release(ring._xsk, LENT_MAX)


@root
def test_frames_of_lent_batches_come_back(pair):
    frames, taken = 4096, 0
    ring = Ring(pair.ifindex, frames=frames, ring_size=2048)
    with Redirect(pair.ifindex) as redirect, ring:
        redirect.bind(ring.fd)
        for _ in range(2 * frames // BATCH_MAX):
            pair.send_many(BATCH_MAX)
            taken += len(batch := lent(ring))
            ring.release(batch)
        assert taken == 2 * frames
        assert not any(ring.statistics().values())
    ring.release(batch)  # the kernel wants it no more


@root
def test_heads_are_copied_side_by_side_and_end_with_zeros(pair, ring):
    for length in (60, 100, 300):
        pair.send(bytes([length % 251]) * length)
    rows = np.full((4, 100), 7, np.uint8)
    batch = ring.receive()
    assert batch.heads(rows).tolist() == [[60] * 60 + [0] * 40, [100] * 100, [49] * 100]
    assert rows[3].tolist() == [7] * 100
    for unfit in (rows[:2], rows[:, ::2], rows.astype(np.int8), rows[0]):
        with pytest.raises(ValueError, match="rows"):
            batch.heads(unfit)
    with pytest.raises(ValueError, match="not within memory"):
        replace(batch, offset=batch.offset + np.uint64(1 << 40)).heads(rows)


@root
def test_nothing_comes_gives_an_empty_batch(impatient):
    start = time.monotonic()
    assert len(impatient.receive()) == 0
    assert time.monotonic() - start > 0.04


@root
def test_batch_waits_for_the_deadline(pair, ring):
    sent_at = time.monotonic()
    pair.send()
    assert len(ring.receive(deadline_s=0.2)) == 1
    assert time.monotonic() - sent_at > 0.2


@root
def test_old_packet_does_not_wait_again(pair, ring):
    pair.send(timestamp_ns=time.monotonic_ns() - 60 * 10**9)
    start = time.monotonic()
    assert len(ring.receive(deadline_s=30)) == 1
    assert time.monotonic() - start < 10


@root
def test_time_stamp_of_the_future_does_not_wait(pair, ring):
    pair.send(timestamp_ns=time.monotonic_ns() + 60 * 10**9)
    start = time.monotonic()
    assert len(ring.receive(deadline_s=30)) == 1
    assert time.monotonic() - start < 10


@root
def test_ring_full_is_counted_and_reported_once(pair):
    with Redirect(pair.ifindex) as redirect, Ring(pair.ifindex, 0, 4096, 4096, 1024) as ring:
        redirect.bind(ring.fd)
        pair.send_many(1100)
        until(lambda: ring.statistics()["rx_ring_full"] == 76)
        batch = ring.receive()
        assert len(batch) == 1024
        assert batch.lost == {"rx_ring_full": 76}
        assert ring.receive().lost == {}


@root
def test_close_frees_the_queue_at_once(pair):
    Ring(pair.ifindex).close()
    with Redirect(pair.ifindex) as redirect, Ring(pair.ifindex) as ring:
        redirect.bind(ring.fd)
        pair.send()
        assert len(ring.receive()) == 1


@root
def test_batch_outlives_the_ring(pair, ring):
    pair.send()
    batch = ring.receive()
    ring.close()
    ring.close()
    assert batch.frame(0).tobytes() == FRAME
    with pytest.raises(ValueError, match="closed"):
        ring.receive()


@root
def test_second_consumer_is_refused(pair, ring):
    with pytest.raises(DataplaneError, match="has a consumer already"):
        Ring(pair.ifindex, busy_timeout_s=0.1)


@root
@pytest.mark.parametrize(
    ("ifindex", "queue", "message"),
    [(None, 7, "no such queue"), (999_999, 0, "gone or down")],
)
def test_no_such_device_or_queue(pair, ifindex, queue, message):
    with pytest.raises(DataplaneError, match=message):
        Ring(ifindex or pair.ifindex, queue)


@root
def test_zero_copy_falls_back_to_copy(pair):
    with Ring(pair.ifindex, zero_copy=True) as ring:
        assert not ring.zero_copy  # veth cannot


@root
def test_device_that_goes_away_is_an_error(pair, impatient):
    pair.run("ip link del sender")
    with pytest.raises(DataplaneError, match="gone or down"):
        for _ in range(10):
            impatient.receive()


@root
def test_interrupt_ends_the_wait_and_loses_nothing(pair, ring):
    pair.send(flow_id=5)
    with interrupted(after_s=0.05), pytest.raises(KeyboardInterrupt):
        ring.receive(deadline_s=30)
    assert ring.receive().flow_id.tolist() == [5]


@root
def test_handler_that_closes_the_ring_ends_the_wait(pair, ring):
    before = signal.signal(signal.SIGALRM, lambda number, frame: ring.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(ValueError, match="closed"):
            ring.receive()
    finally:
        signal.signal(signal.SIGALRM, before)


def run_limited(code: str, drop: str) -> str:
    """Return what the code prints when it runs without a capability."""
    argv = ["setpriv", f"--bounding-set=-{drop}", f"--inh-caps=-{drop}", sys.executable, "-c"]
    done = subprocess.run(
        [*argv, textwrap.dedent(code)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20)),
    )
    return done.stdout + done.stderr


OPEN = """
    from etcpipe.errors import EtcpipeError
    from etcpipe.ring import Ring
    try:
        Ring({ifindex})
    except EtcpipeError as error:
        print(type(error).__name__, error)
"""


@root
def test_memory_lock_limit_is_explained(pair):
    said = run_limited(OPEN.format(ifindex=pair.ifindex), "ipc_lock")
    assert said.startswith("PermissionDeniedError 32 MiB of frames exceed the memory lock limit")
    assert said.count("\n") == 1


@root
def test_missing_capability_is_explained(pair):
    said = run_limited(OPEN.format(ifindex=pair.ifindex), "net_raw")
    assert said == "PermissionDeniedError AF_XDP needs root, or CAP_NET_RAW and CAP_BPF\n"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(frames=10_000), "frames 10000: a power of two"),
        (dict(frames=0), "frames 0: a power of two"),
        (dict(frame_size=1024), "frame_size 1024: 2048 to"),
        (dict(frame_size=2 * mmap.PAGESIZE), "frame_size"),
        (dict(ring_size=32_768), "ring_size <= frames"),
        (dict(ring_size=512), "1024 <= ring_size"),
        (dict(frames=1 << 30, ring_size=1 << 30), "<= 1048576"),
    ],
)
def test_sizes_are_checked(sizes, message):
    with pytest.raises(UsageError, match=message):
        Ring(1, **sizes)
