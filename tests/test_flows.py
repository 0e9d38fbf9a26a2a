"""The life of a flow in the kernel's table against the model, and the sweeper that ends it."""

from collections.abc import Iterator

import captures
import numpy as np
import pytest
from captures import ACK, CLIENT, FIN, PSH, RST, SERVER, SYN, ether
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kernel_fixtures import Bench, bench
from test_tracker import PACKETS, Model, frame_of, summaries

from etcpipe.capture import Capture
from etcpipe.kernel import status
from etcpipe.kernel.flow_table import Window
from etcpipe.kernel.settings import TapSettings
from etcpipe.kernel.sweeper import Sweeper
from etcpipe.layout import END_REASONS

pytestmark = pytest.mark.root

S = 10**9
ANSWER = (SERVER, CLIENT, 443, 40000)
# Well beside each timeout: real time goes on between two packets, too.
GAPS = st.sampled_from([0, S, 4 * S, 6 * S, 28 * S, 32 * S, 110 * S, 125 * S])


class Table(Bench):
    """The programs with a sweeper of their table, and a way to let time pass."""

    def __init__(self, tap: Bench, **timeouts: float):
        super().__init__(tap.loaded)
        self.records: list[np.ndarray] = []
        self.sweeper = Sweeper(self.table, TapSettings(**timeouts), self.records.append)

    def packet(self, payload: bytes | int, flags: int, *ends: object) -> None:
        self.run("tc_track", ether(captures.tcp(payload, flags, *ends)))

    def wait(self, gap_ns: int) -> None:
        """Make every flow older, as if it had been silent for so long."""
        for window in self.table.windows():
            for name in ("first_ns", "last_ns"):
                window._places["state"][name][window.rows] -= np.uint64(gap_ns)
        self.sweeper._round_ns -= gap_ns

    def sweep(self) -> np.ndarray:
        """Return what one round reports."""
        self.records.clear()
        self.sweeper.sweep()
        return np.concatenate(self.records) if self.records else np.empty(0, dtype=[])

    def reasons(self) -> list[str]:
        records = self.sweep()
        return [END_REASONS[reason] for reason in records["reason"]] if len(records) else []


@pytest.fixture(scope="module")
def loaded() -> Iterator[Bench]:
    with bench("libbpf") as tap:
        yield tap


@pytest.fixture
def table(loaded: Bench) -> Table:
    loaded.forget_flows()
    return Table(loaded)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(GAPS, PACKETS), min_size=1, max_size=25))
def test_random_packets_as_the_model(loaded: Bench, steps: list) -> None:
    """The rules of tests/test_tracker.py in the kernel, with a sweep after each silence."""
    loaded.forget_flows()
    table, model, now = Table(loaded), Model(), 0
    before, ended = table.counters(), []
    for gap, packet in steps:
        now += gap
        # real time goes on in the kernel: several gaps may not add up to just a timeout
        for flow in model.flows.values():
            assume(model.is_silent(flow, now - S // 2) == model.is_silent(flow, now + S // 2))
        if gap:
            table.wait(gap)
            ended += content(table.sweep())
            for key in [key for key, flow in model.flows.items() if model.is_silent(flow, now)]:
                model.end(key, now)
        frame = frame_of(packet)
        table.run("tc_track", frame)
        model.packet(now, packet, len(frame))

    moved = {name: n - before[name] for name, n in table.counters().items()}
    assert moved["FLOWS_CREATED"] + moved["FLOWS_RESTARTED"] == model.created
    swept = sorted(map(of_model, model.ended))
    # a closed flow whose tuple a SYN took again is not in the table any more to be reported
    for record in sorted(ended):
        swept.remove(record)
    assert len(swept) == moved["FLOWS_RESTARTED"]
    assert {reason for *_, reason in swept} <= {"closed"}
    states = table.flows()[1]
    assert sorted(totals(states)) == sorted(of_model(flow)[:-1] for flow in model.flows.values())


def totals(states: np.ndarray) -> list[tuple]:
    names = ("packets", "bytes", "counted")
    return [tuple(map(str, row)) for row in zip(*(states[n].tolist() for n in names), strict=True)]


def content(records: np.ndarray) -> list[tuple]:
    if not len(records):
        return []
    reasons = [END_REASONS[reason] for reason in records["reason"]]
    return [(*row, reason) for row, reason in zip(totals(records["state"]), reasons, strict=True)]


def of_model(flow: dict) -> tuple:
    values = (flow[name] for name in ("packets", "bytes", "counted"))
    return (*map(str, values), flow.get("reason", ""))


@pytest.mark.parametrize(
    ("packets", "timeout_s", "reason"),
    [
        pytest.param([(SYN,)], 5, "establish", id="SYN alone"),
        pytest.param([(SYN,), (SYN | ACK, *ANSWER)], 120, "idle", id="answered"),
        pytest.param([(ACK,)], 120, "idle", id="one direction of a flow under way"),
        pytest.param([(SYN,), (RST | ACK, *ANSWER)], 30, "closed", id="refused"),
        pytest.param([(FIN | ACK,), (FIN | ACK, *ANSWER)], 30, "closed", id="both have finished"),
        pytest.param([(FIN | ACK,)], 120, "idle", id="one side has finished"),
    ],
)
def test_a_flow_ends_after_its_timeout_without_a_packet(
    table: Table, packets: list, timeout_s: int, reason: str
) -> None:
    for flags, *ends in packets:
        table.packet(b"", flags, *ends)
    table.wait((timeout_s - 1) * S)
    assert table.reasons() == []
    table.wait(2 * S)
    assert table.reasons() == [reason]
    assert len(table.flows()[0]) == 0
    assert table.reasons() == []


def test_stragglers_stay_with_their_flow_and_a_syn_does_not(table: Table) -> None:
    table.packet(b"x", PSH | ACK)
    table.packet(b"", RST, *ANSWER)
    first = int(table.flow()["flow_id"])
    table.wait(29 * S)
    table.packet(b"", ACK)
    assert (table.flow()["flow_id"], table.flow()["packets"].tolist()) == (first, [2, 1])
    table.packet(b"", SYN)
    assert table.flow()["flow_id"] != first


def test_a_tuple_is_a_new_flow_once_its_tombstone_is_gone(table: Table) -> None:
    table.packet(b"", RST)
    first = int(table.flow()["flow_id"])
    table.wait(31 * S)
    table.packet(b"", ACK)
    assert table.flow()["flow_id"] != first


def test_a_long_flow_is_reported_each_active_timeout_and_goes_on(table: Table) -> None:
    table.packet(b"x", ACK)
    reports = []
    for _ in range(45):
        table.wait(100 * S)
        table.packet(b"x", ACK)
        reports.append(table.sweep())
    found = [(i, report) for i, report in enumerate(reports) if len(report)]
    assert [i for i, _ in found] == [17, 35]  # after 1800 and 3600 s
    assert [report["state"]["packets"].tolist() for _, report in found] == [[[19, 0]], [[37, 0]]]
    assert {END_REASONS[reason] for _, report in found for reason in report["reason"]} == {"active"}
    assert table.flow()["packets"].tolist() == [46, 0]
    assert table.sweeper.counters == {"FLOWS_ENDED": 0, "FLOWS_ACTIVE": 2}


def test_a_flow_that_begins_anew_between_look_and_removal_stays(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.packet(b"", SYN)
    table.wait(6 * S)
    take = Window.take

    def late(*arguments: object) -> tuple[np.ndarray, np.ndarray]:
        table.packet(b"", SYN | ACK, *ANSWER)  # SYN restarts no half-open flow that is silent ..
        return take(*arguments)

    monkeypatch.setattr(Window, "take", late)
    assert len(table.sweep()) == 0
    assert table.sweeper.counters == {"FLOWS_ENDED": 0, "FLOWS_ACTIVE": 0}
    assert table.flow()["packets"].tolist() == [0, 1]  # .. so this was a new flow


def test_the_rest_is_reported_and_stays(table: Table) -> None:
    table.packet(b"x", ACK)
    table.run("tc_track", ether(captures.udp(b"x")))
    table.packet(b"", RST, "10.9.9.9")
    table.sweeper.rest()
    records = np.concatenate(table.records)
    assert sorted(END_REASONS[reason] for reason in records["reason"]) == [
        "closed",
        "source",
        "source",
    ]
    assert len(table.flows()[0]) == 3


def test_the_thread_ends_flows_while_nothing_arrives() -> None:
    with bench("libbpf") as tap:
        tap.run("tc_track", ether(captures.tcp(b"", SYN)))
        reported = []
        timeouts = TapSettings(establish_timeout_s=0.05)
        with Sweeper(tap.table, timeouts, reported.append, period_s=0.02) as sweeper:
            for _ in range(200):
                if reported:
                    break
                sweeper._stopping.wait(0.02)
        assert len(reported) == 1
        assert sweeper.counters["FLOWS_ENDED"] == 1


def test_an_error_of_the_taker_ends_the_thread_and_is_kept(loaded: Bench) -> None:
    loaded.forget_flows()

    def full(records: np.ndarray) -> None:
        raise OSError("disk full")

    table = Table(loaded)
    table.packet(b"", SYN)
    table.wait(6 * S)
    with Sweeper(loaded.table, TapSettings(), full, period_s=0.01) as sweeper:
        sweeper._thread.join(20)
    assert str(sweeper.failure) == "disk full"


def flow_frames(n: int) -> list[bytes]:
    ends = ((f"10.1.{i >> 8}.{i & 255}", f"10.2.0.{i % 7 + 1}") for i in range(n))
    return [ether(captures.udp(b"x", src=a, dst=b, sport=i + 1)) for i, (a, b) in enumerate(ends)]


@pytest.mark.parametrize("seed", [0, 9])
def test_a_sample_is_the_same_live_in_both_directions_and_for_captures(tmp_path, seed: int) -> None:
    frames = flow_frames(400)
    backwards = [
        ether(captures.udp(b"x", src=b, dst=a, sport=53, dport=sport))
        for a, b, sport in [("10.1.0.9", "10.2.0.3", port) for port in range(200)]
    ]
    forwards = [
        ether(captures.udp(b"x", src=a, dst=b, sport=sport, dport=53))
        for a, b, sport in [("10.1.0.9", "10.2.0.3", port) for port in range(200)]
    ]
    packets = [*frames, *forwards, *backwards]
    with bench("libbpf", sample=4, sample_seed=seed) as tap:
        for frame in packets:
            tap.run("tc_track", frame)
        keys, states = tap.flows()
        counters = tap.counters()
    path = captures.write(
        tmp_path / "a", captures.pcap([(S + i, frame) for i, frame in enumerate(packets)])
    )
    capture = Capture([path], sample=4, sample_seed=seed)
    for _ in capture:
        pass
    records = capture.finish()
    assert sorted(key.tobytes() for key in keys) == sorted(r.tobytes() for r in records["key"])
    assert counters["PACKETS_UNSAMPLED"] == capture.counters["PACKETS_UNSAMPLED"]
    assert counters["PACKETS_TRACKED"] + counters["PACKETS_UNSAMPLED"] == len(packets)
    assert 90 <= len(keys) <= 210  # of 600 flows a quarter: 150, and six times its deviation
    both = states["packets"][states["packets"].sum(axis=1) == 2]
    assert (both == 1).all()


def test_the_seed_moves_the_sample() -> None:
    samples = []
    for seed in (1, 2):
        with bench("libbpf", sample=2, sample_seed=seed) as tap:
            for frame in flow_frames(100):
                tap.run("tc_track", frame)
            samples.append({key.tobytes() for key in tap.flows()[0]})
    assert samples[0] != samples[1]


def test_summaries_name_what_the_sweeper_says(table: Table) -> None:
    table.packet(b"x", ACK)
    table.wait(121 * S)
    (summary,) = summaries(table.sweep())
    assert (summary[3], summary[5], summary[6]) == ([1, 0], 1, "idle")
    assert status.counters(table.loaded.maps["packet_counters"])["PACKETS_TRACKED"] > 0
