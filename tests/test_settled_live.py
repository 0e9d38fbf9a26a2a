"""Final answers end the copying of their flows, live, and each packet is accounted for."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import captures
import pytest
from kernel_fixtures import Wire, wire

from etcpipe.capture import Capture
from etcpipe.cascade.life import CascadeInService
from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.live import attach as live
from etcpipe.live.tap import Live
from etcpipe.verdict import VerdictBatch

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from test_cascade_offline import write_model

pytestmark = pytest.mark.root

LAB = sorted((Path(__file__).parent / "data/lab").glob("*.pcap"))
FIRST, LAST = 10, 50  # packets at which the stages of the cascade that ships answer
FRAME_MAX = 1514
NEVER_IDLE_S = 600.0  # however slow the machine: no flow is answered by silence
SMALL, LARGE = 60, 1200  # bytes of payload: write_model()'s classes follow from mean sizes
UNSURE, SURE = 20000, 20001  # source ports: a small flow never is, a large one at its first packet
TAKEN = {"afxdp": "PACKETS_REDIRECTED", "ringbuf": "PACKETS_CLONED"}
REGROUPED = ("STORED", "LATE", "STRAGGLERS", "BEYOND", "UNPARSED", "DUPLICATES")


def udp(port: int) -> bytes:
    """Return a packet of the flow from a source port."""
    size = LARGE if port == SURE else SMALL
    addresses = {"src": "10.77.0.2", "dst": "10.77.0.1"}
    return captures.ether(captures.udp(bytes(size), **addresses, sport=port, dport=4433))


def send(wire: Wire, frames: Sequence[bytes]) -> None:
    with wire.raw() as sender:
        for frame in frames:
            sender.send(frame)


class Watched:
    """What a tap said and was handed, flow by flow."""

    def __init__(self, tap: Live):
        self.tap = tap
        self.packets: Counter[int] = Counter()  # that were copied, by flow
        self.final: dict[int, tuple[int, int]] = {}  # stage and packets used, by flow
        self.ports: dict[int, int] = {}
        tap.at_packets(lambda batch: self.packets.update(batch.flow_id.tolist()))

    def until(self, *steps: tuple[Callable[[], bool], Callable[[], object]]) -> None:
        """Take verdicts; do what each step says once its condition holds, and end with the last."""
        left = list(steps)

        def look() -> None:
            if left and left[0][0]():
                left.pop(0)[1]()
            if not left:
                self.tap.stop()

        self.tap.at_checks(look)
        for verdicts in self.tap:
            self._note(verdicts.final())
        assert not left

    def has_judged(self, packets: int) -> bool:
        """Have so many been regrouped, and all flows that they brought to a stage been judged?"""
        serving = self.tap._answering._serving
        assert isinstance(serving, CascadeInService)
        return self.stored() >= packets and all(one.is_idle for one in serving._runtimes())

    def stored(self) -> int:
        return self.tap.counters()["REGROUP_STORED"]

    def has_counted(self, packets: int) -> bool:
        """Has the kernel seen so many of the first N, and has each copy come here?"""
        counters = self.tap.counters()
        taken = counters["PACKETS_FIRST_N"] - counters["PACKETS_SETTLED"]
        return counters["PACKETS_FIRST_N"] >= packets and self.packets.total() == taken

    def by_port(self) -> dict[int, int]:
        return {port: self.packets[flow_id] for flow_id, port in self.ports.items()}

    def assert_exact(self, settled: int) -> None:
        """Each of the first N was copied or settled; each copy came, and was regrouped."""
        counters = self.tap.counters()
        came = counters[TAKEN[self.tap.capture]]
        assert self.tap.lost() == {}
        assert counters["PACKETS_SETTLED"] == settled
        assert counters["PACKETS_FIRST_N"] - settled == came == self.packets.total()
        assert came == sum(counters[f"REGROUP_{name}"] for name in REGROUPED)

    def _note(self, verdicts: VerdictBatch) -> None:
        for i, flow_id in enumerate(verdicts.flows.flow_id.tolist()):
            assert flow_id not in self.final
            self.final[flow_id] = int(verdicts.stage[i]), int(verdicts.packets_used[i])
            key = verdicts.flows.key[i]
            self.ports[flow_id] = max(int(key["a_port"]), int(key["b_port"]))


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    first, last = (write_model(tmp_path / f"{n}.onnx", n).name for n in (1, 10))
    rule = Rule("per_class", 1.01, {"large": 0.9})
    Cascade((Stage(1, first, rule=rule), Stage(10, last))).save(tmp_path / "c.toml")
    return tmp_path / "c.toml"


@pytest.mark.parametrize(
    "how",
    [{"mode": "tc"}, {"mode": "xdp"}, {"mode": "tc", "capture": "ringbuf"}],
    ids=["tc", "xdp", "ringbuf"],
)
def test_an_answered_flow_has_no_more_copies_and_an_unsure_one_all(wire, cascade, how):
    with live.attach(
        wire.device, cascade=cascade, netns=wire.near, wait_s=NEVER_IDLE_S, **how
    ) as tap:
        watched = Watched(tap)
        send(wire, [udp(SURE), udp(UNSURE)])
        watched.until(
            (lambda: watched.has_judged(2), lambda: send(wire, [udp(SURE), udp(UNSURE)] * 19)),
            (lambda: watched.has_counted(20) and len(watched.final) == 2, lambda: None),
        )
        watched.assert_exact(settled=9)
    assert watched.by_port() == {SURE: 1, UNSURE: 10}


def test_a_copy_that_comes_after_the_answer_is_late(wire, cascade):
    """On its way while its flow was judged; or made since, as a newer flow took the slot."""
    with live.attach(
        wire.device, cascade=cascade, netns=wire.near, mode="tc", wait_s=NEVER_IDLE_S
    ) as tap:
        watched = Watched(tap)

        def send_another() -> None:
            (flow_id,) = watched.final
            slot = flow_id % len(tap._tap.verdicts)
            word, tap._tap.verdicts[slot] = int(tap._tap.verdicts[slot]), 0
            send(wire, [udp(SURE)])
            while tap.counters()["PACKETS_CLONED"] < 2:
                pass
            tap._tap.verdicts[slot] = word
            send(wire, [udp(SURE)] * 10)

        send(wire, [udp(SURE)])
        watched.until(
            (lambda: len(watched.final) == 1, send_another),
            (lambda: watched.has_counted(10), lambda: None),
        )
        watched.assert_exact(settled=8)
        assert tap.counters()["REGROUP_LATE"] == 1
    assert watched.by_port() == {SURE: 2}


def test_a_flow_that_one_model_answered_after_silence_has_no_more_copies(wire, tmp_path):
    model = write_model(tmp_path / "10.onnx", 10)
    with live.attach(wire.device, model=model, netns=wire.near, mode="tc", wait_s=0.05) as tap:
        watched = Watched(tap)
        send(wire, [udp(SURE)])
        watched.until(
            (lambda: len(watched.final) == 1, lambda: send(wire, [udp(SURE)] * 12)),
            (lambda: watched.has_counted(10), lambda: None),
        )
        watched.assert_exact(settled=9)
    assert watched.by_port() == {SURE: 1}


def test_what_was_answered_is_not_judged_again_by_who_adopts_the_tap(wire, cascade):
    how = {"cascade": cascade, "netns": wire.near, "mode": "tc", "wait_s": NEVER_IDLE_S}
    with live.attach(wire.device, keep=True, **how) as tap:
        send(wire, [udp(SURE)])
        watched = Watched(tap)
        watched.until((lambda: len(watched.final) == 1, lambda: None))
    with live.attach(wire.device, **how) as tap:
        send(wire, [udp(SURE)] * 12)
        watched = Watched(tap)
        watched.until((lambda: tap.counters()["PACKETS_FIRST_N"] == 10, lambda: None))
        assert tap.counters()["PACKETS_SETTLED"] == 9
    assert (watched.packets, watched.final) == ({}, {})


def first_frames() -> list[list[bytes]]:
    """Return the first ten packets with payload of recorded flows that have so many."""
    found: dict[bytes, list[bytes]] = {}
    for path in LAB:
        capture, mine = Capture([path], first_n=FIRST), {}
        for batch in capture:
            for i in range(len(batch)):
                mine.setdefault(int(batch.flow_id[i]), []).append(batch.frame(i).tobytes())
        for frames in mine.values():
            if len(frames) == FIRST and all(len(frame) <= FRAME_MAX for frame in frames):
                found.setdefault(tuple_of(frames[0]), frames)
    return list(found.values())


def tuple_of(frame: bytes) -> bytes:
    """Return what tells the flow of an IPv4 packet apart, whoever sent it."""
    ends = sorted((frame[26 + 4 * i : 30 + 4 * i], frame[34 + 2 * i : 36 + 2 * i]) for i in (0, 1))
    return frame[23:24] + b"".join(address + port for address, port in ends)


def test_the_cascade_that_ships_takes_fifty_packets_of_unsure_flows_alone(wire):
    flows = first_frames()
    both, more = len(flows) * FIRST, [frame for frames in flows for frame in frames]
    with live.attach(wire.device, netns=wire.near, mode="tc", wait_s=NEVER_IDLE_S) as tap:
        watched = Watched(tap)
        send(wire, more)
        watched.until(
            (lambda: watched.has_judged(both), lambda: send(wire, more * 4)),
            (lambda: watched.has_counted(5 * both) and len(watched.final) == len(flows), tap.stop),
        )
        sure = [flow_id for flow_id, answer in watched.final.items() if answer == (0, FIRST)]
        unsure = [flow_id for flow_id, answer in watched.final.items() if answer == (1, LAST)]
        assert sure and unsure and len(sure) + len(unsure) == len(flows)
        assert {watched.packets[flow_id] for flow_id in sure} == {FIRST}
        assert {watched.packets[flow_id] for flow_id in unsure} == {LAST}
        watched.assert_exact(settled=(LAST - FIRST) * len(sure))
