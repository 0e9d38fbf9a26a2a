"""Two batches out at a time: frames go back behind their event, and nobody waits for a batch."""

import random
import time
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_shim import ShimDevice
from frames import ether, ipv4, rows_of, split, udp
from lazy_cuda import LazyCuda
from test_regroup_agree import random_packets
from test_ring import pair  # noqa: F401  a fixture
from test_staging_regroup import in_umem
from waiting import until
from xsk_redirect import Redirect

from etcpipe import pipeline
from etcpipe.batch import PacketBatch, concatenate
from etcpipe.capture import Capture
from etcpipe.errors import DataplaneError
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.regroup_gpu import Backend
from etcpipe.gpu.staging import StagedDevice
from etcpipe.live.source import AHEAD_MAX, TapSource
from etcpipe.queues import Queues
from etcpipe.ring import BATCH_MAX, LENT_MAX, Ring

PACKETS, BATCH = 600, 60
FULL = {"always": 1.0, "now and then": 0.5, "never": 0.0}  # that another batch is there


def batches(seed: int) -> list[PacketBatch]:
    packets = random_packets(random.Random(seed), PACKETS, 40)
    return [in_umem(part) for part in split(packets, [BATCH] * (PACKETS // BATCH))]


def regroup_on(cuda: LazyCuda | None) -> Regroup:
    regroup = Regroup(6, 40, slots=64, wait_s=0.05, device="reference")
    if cuda:
        regroup._backend = Backend(regroup.settings, StagedDevice(cuda))
    return regroup


class FakeRing(Ring):
    """Packets that have come, some batches by a call that waits and others early, by a plan.

    Frames that were given back are overwritten, as the kernel does.
    """

    def __init__(self, waiting: list[PacketBatch], is_full: list[bool]):
        self.waiting, self._is_full = deque(waiting), deque(is_full)
        self.out: list[PacketBatch] = []
        self.most_out = 0
        self._nothing = split(waiting[0], [0])[0]

    def receive(self) -> PacketBatch:
        assert not self.out, "waited while batches were out"
        return self._hand_out() if self.waiting else self._nothing

    def lend(self) -> PacketBatch | None:
        is_there = self._is_full.popleft() if self._is_full else True
        return self._hand_out() if is_there and self.waiting else None

    def release(self, batch: PacketBatch) -> None:
        assert batch is self.out.pop(0)
        batch.memory[:] = 0xEE

    def _hand_out(self) -> PacketBatch:
        self.out.append(self.waiting.popleft())
        self.most_out = max(self.most_out, len(self.out))
        return self.out[-1]


def tap_source(ring: Ring, goes_on=lambda: True) -> TapSource:
    source = TapSource(SimpleNamespace(queues=1), ring, goes_on, lambda batch: None)
    source.clock_ns = lambda: None  # else rows would be idle by the real clock
    return source


def while_there_are_packets(ring: FakeRing):
    return lambda: bool(ring.waiting)


def rows_one_at_a_time(seed: int) -> tuple[list, list, dict[str, int]]:
    regroup = regroup_on(None)
    rows = [row for part in batches(seed) for row in rows_of([regroup.add(part)])]
    return rows, rows_of([regroup.flush()]), regroup.counters


@pytest.mark.parametrize("late", [None, 1, 2], ids=["as late as may be", "1", "2"])
@pytest.mark.parametrize("full", FULL)
def test_rows_and_accounts_are_those_of_one_batch_at_a_time(late, full):
    rng = random.Random(late)
    ring = FakeRing(batches(3), [rng.random() < FULL[full] for _ in range(99)])
    regroup = regroup_on(LazyCuda(ShimDevice(), late))
    source = tap_source(ring, while_there_are_packets(ring))
    rows = [row for flows in pipeline.completed(source, regroup) for row in rows_of([flows])]
    expected, rest, counters = rows_one_at_a_time(3)
    assert rows == expected
    assert rows_of([regroup.flush()]) == rest
    assert regroup.counters == counters
    assert not ring.out and not ring.waiting
    assert ring.most_out == (1 if full == "never" else LENT_MAX)
    assert regroup._backend._device.copied_because == ""


class FakeQueue(Ring):
    """A ring whose packets have come; the kernel has its frames again by the next receive()."""

    def __init__(self, waiting: list[PacketBatch]):
        self._waiting = deque(waiting)
        self._nothing = split(waiting[0], [0])[0]
        self._out: PacketBatch | None = None

    def receive(self) -> PacketBatch:
        if self._out:
            self._out.memory[:] = 0xEE
        if not self._waiting:
            time.sleep(0.01)  # as a ring waits
            return self._nothing
        self._out = self._waiting.popleft()
        return self._out

    def no_packets(self) -> PacketBatch:
        return self._nothing

    def close(self) -> None:
        pass


@pytest.mark.parametrize("late", [None, 1, 2], ids=["as late as may be", "1", "2"])
def test_a_batch_of_another_queue_comes_beside_the_one_that_is_out(late):
    parts, twins = batches(3), batches(3)
    order, most_out = [], 0

    def show(batch: PacketBatch) -> None:
        nonlocal most_out
        order.extend(i for i, part in enumerate(parts) if part is batch)
        most_out = max(most_out, len(queues._lent))

    regroup, alone = regroup_on(LazyCuda(ShimDevice(), late)), regroup_on(None)
    with Queues([FakeQueue(parts[::2]), FakeQueue(parts[1::2])]) as queues:
        until(lambda: queues._ready.qsize() == 2)
        tapped = SimpleNamespace(queues=2)
        source = TapSource(tapped, queues, lambda: len(order) < len(parts), show)
        source.clock_ns = lambda: None
        rows = [row for flows in pipeline.completed(source, regroup) for row in rows_of([flows])]
    assert sorted(order) == list(range(len(parts)))
    assert rows == [row for i in order for row in rows_of([alone.add(twins[i])])]
    assert rows_of([regroup.flush()]) == rows_of([alone.flush()])
    assert regroup.counters == alone.counters
    assert most_out == LENT_MAX


def test_a_queue_that_is_gone_is_told_when_no_batch_is_out():
    first, second = FakeQueue(batches(3)), FakeQueue(batches(4))
    gone = DataplaneError("gone")
    second.receive = lambda: raise_(gone)
    with Queues([first, second]) as queues:
        until(lambda: queues._ready.qsize() == 2)
        taken = [queues._ready.get() for _ in range(2)]
        for found in sorted(taken, key=lambda found: found[0]):  # the queue that works first
            queues._ready.put(found)
        batch = queues.receive()
        assert len(batch) == BATCH and queues.lend() is None
        queues.release(batch)
        with pytest.raises(DataplaneError, match="gone"):
            while True:
                queues.receive()


def raise_(error: Exception):
    raise error


@pytest.mark.gpu
def test_on_hardware_rows_are_those_of_one_batch_at_a_time():
    from etcpipe.gpu.cuda_cupy import CupyDevice

    ring, regroup = FakeRing(batches(3), []), regroup_on(None)
    regroup._backend = Backend(regroup.settings, CupyDevice())
    source = tap_source(ring, while_there_are_packets(ring))
    rows = [row for flows in pipeline.completed(source, regroup) for row in rows_of([flows])]
    expected, rest, counters = rows_one_at_a_time(3)
    assert rows == expected
    assert rows_of([regroup.flush()]) == rest
    assert regroup.counters == counters
    assert not ring.out and ring.most_out == LENT_MAX


def test_frames_that_go_back_before_their_event_would_be_noticed(monkeypatch):
    ring = FakeRing(batches(3), [])
    regroup = regroup_on(LazyCuda(ShimDevice()))
    source = tap_source(ring, while_there_are_packets(ring))
    stage = regroup.stage

    def stage_and_give_back(batch, now_ns):
        staged = stage(batch, now_ns)
        batch.memory[:] = 0xEE
        return staged

    monkeypatch.setattr(regroup, "stage", stage_and_give_back)
    rows = [row for flows in pipeline.completed(source, regroup) for row in rows_of([flows])]
    assert rows != rows_one_at_a_time(3)[0]


def test_a_lone_batch_is_done_with_before_another_is_waited_for():
    parts = batches(4)
    nothing = split(parts[0], [0])[0]  # nothing came for a while: flows may be idle
    ring = FakeRing([*parts[:3], nothing, nothing, *parts[3:]], [False] * 99)
    taken: list[int] = []  # batches whose rows were out when the ring waited
    regroup = regroup_on(LazyCuda(ShimDevice()))
    came = 0

    def goes_on() -> bool:
        taken.append(came)
        return bool(ring.waiting)

    for _ in pipeline.completed(tap_source(ring, goes_on), regroup):
        came += 1
    assert taken == list(range(len(parts) + 2 + 1))


def test_somebody_looks_whether_more_is_wanted_however_fast_packets_come():
    parts = batches(5) * 12
    ring = FakeRing([in_umem(part) for part in parts], [])
    asked: list[int] = []

    def goes_on() -> bool:
        assert not ring.out, "a model may be replaced now"
        asked.append(len(ring.waiting))
        return bool(ring.waiting)

    deque(pipeline._ahead(tap_source(ring, goes_on), regroup_on(None)))
    steps = -np.diff(asked)
    assert set(steps[:-1]) == {AHEAD_MAX + 1} and asked[-1] == 0


def test_who_stops_gets_what_was_on_its_way_and_what_the_ring_still_holds():
    ring = FakeRing(batches(6), [])
    wanted = iter([True])
    source = tap_source(ring, lambda: next(wanted, False))
    regroup = regroup_on(LazyCuda(ShimDevice()))
    rows = [row for flows in pipeline.completed(source, regroup) for row in rows_of([flows])]
    assert rows == rows_one_at_a_time(6)[0]
    assert not ring.out and not ring.waiting


def test_who_leaves_with_batches_on_their_way_leaves_nothing_undone():
    ring = FakeRing(batches(7), [])
    cuda = LazyCuda(ShimDevice())
    regroup = regroup_on(cuda)
    ready = pipeline.completed(tap_source(ring), regroup)
    next(ready)
    assert len(ring.out) == 1  # and the rows of another are on their way
    ready.close()
    taken = len(batches(7)) - len(ring.waiting)
    regroup.flush()
    assert regroup.counters["REGROUP_STORED"] > 0
    expected = regroup_on(None)
    for part in batches(7)[:taken]:
        expected.add(part)
    expected.flush()
    assert regroup.counters == expected.counters


def test_batches_of_a_capture_keep_their_frames_while_the_next_one_is_out(tmp_path):
    from test_staging import RECORDING

    def frames(batch):
        return [batch.frame(i).tobytes() for i in range(len(batch))]

    expected = [frames(batch) for batch in Capture([RECORDING] * 3)]
    assert sum(map(len, expected)) > 0
    before, got = None, []
    for batch in Capture([RECORDING] * 3).ahead():
        if before is not None:
            got.append(frames(before))
        before = batch
    assert [*got, frames(before)] == expected


@pytest.mark.root
def test_packets_of_a_ring_come_out_whole_though_their_frames_are_used_again(pair):  # noqa: F811
    flows, depth, frames = 1024, 4, 2 * BATCH_MAX
    sent = [(flow, rank) for rank in range(depth) for flow in range(1, flows + 1)]
    rounds = [sent[:frames], sent[frames:], []]
    regroup = Regroup(depth, 40, slots=2048, mask="none", device="reference")
    regroup._backend = Backend(regroup.settings, StagedDevice(LazyCuda(ShimDevice())))
    ring = Ring(pair.ifindex, frames=frames, ring_size=frames, idle_s=2)

    def goes_on() -> bool:
        packets = rounds.pop(0)
        for i, (flow, rank) in enumerate(packets):
            if i % 64 == 0:
                time.sleep(0.002)  # no faster than a veth's queue is surely emptied
            frame = ether(ipv4(17, udp(b"%d/%d" % (flow, rank))))
            pair.send(frame, flow_id=flow, rank=rank, wire_len=len(frame))
        return bool(packets)

    with Redirect(pair.ifindex) as redirect, ring:
        redirect.bind(ring.fd)
        found = list(pipeline.completed(tap_source(ring, goes_on), regroup))
        assert not any(ring.statistics().values())
    assert regroup._backend._device.copied_because == ""
    rows = concatenate(found)
    assert sorted(rows.flow_id.tolist()) == list(range(1, flows + 1))
    for flow, packets in zip(rows.flow_id.tolist(), rows.raw, strict=True):
        payloads = [bytes(packet[28:]).rstrip(b"\0") for packet in packets]
        assert payloads == [b"%d/%d" % (flow, rank) for rank in range(depth)]
