"""A cascade answers live traffic: some flows at their first packet, others later."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import json
import signal
import threading
import time

import captures
import numpy as np
import pytest
from command import Running
from kernel_fixtures import Wire, wire

from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.errors import UsageError
from etcpipe.layout import VERDICT_CONSTANTS
from etcpipe.live import attach as live
from etcpipe.verdict import EVENTS

pytest.importorskip("onnx", reason="making models needs etcpipe[train]")
from test_cascade_offline import write_model

pytestmark = pytest.mark.root

SMALL, LARGE = 60, 1200  # bytes of payload: write_model()'s classes follow from mean sizes
PORTS = {20000: SMALL, 20001: LARGE, 20002: SMALL, 20003: LARGE}


def send(wire: Wire, packets: dict[int, int], first: int = 0) -> None:
    """Send so many packets of each flow, by source port."""
    with wire.raw() as sender:
        for port, n in packets.items():
            packet = captures.udp(
                PORTS[port], src="10.77.0.2", dst="10.77.0.1", sport=port, dport=4433
            )
            for _ in range(n):
                sender.send(captures.ether(packet))
                time.sleep(0.01)


@pytest.fixture
def cascade(tmp_path):
    first, last = (write_model(tmp_path / f"{n}.onnx", n).name for n in (1, 4))
    # sure of large flows at their first packet, never of small ones
    rule = Rule("per_class", 1.01, {"large": 0.9})
    Cascade((Stage(1, first, rule=rule), Stage(4, last)), wait_s=5.0).save(tmp_path / "c.toml")
    return tmp_path / "c.toml"


def test_flows_are_answered_at_their_first_packet_or_their_fourth(wire, tmp_path, cascade):
    options = ["-j", "-n", wire.near, "attach", wire.device, "--cascade", str(cascade)]
    with Running(*options, folder=tmp_path) as etcpipe:
        etcpipe.until_attached()
        began = time.monotonic()
        send(wire, dict.fromkeys(PORTS, 1))
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 4)
        took_us = (time.monotonic() - began) * 1e6
        send(wire, dict.fromkeys(PORTS, 5))
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 6)
        assert etcpipe.signalled(signal.SIGINT) == 0
        summary = etcpipe.stderr
    events = [json.loads(line) for line in etcpipe.stdout.splitlines()]
    ours = [event for event in events if event["dest_port"] == 4433]
    seen = {(event["src_port"], event["event_type"]): event["etcpipe"] for event in ours}
    assert len(seen) == len(ours) == 6
    for port, size in PORTS.items():
        if size == LARGE:
            said = seen[port, "verdict"]
            assert (said["label"], said["stage"], said["depth"]) == ("large", 0, 1)
            assert said["latency_us"]["wait"] == 0
            assert (
                said["latency_us"]["queue"] + said["latency_us"]["infer"] < took_us
            )  # on any machine
            continue
        early = seen[port, "early"]
        event = "verdict" if (port, "verdict") in seen else "revised"
        last = seen[port, event]
        assert (early["stage"], early["packets_used"]) == (0, 1)
        assert (last["stage"], last["packets_used"]) == (1, 4)
        assert (event == "revised") == (early["label"] != last["label"])
        assert last["latency_us"]["wait"] > 20_000
    assert "cascade sure" in summary and "regroup left" in summary
    assert wire.leftovers() == []


def test_a_policy_acts_on_the_early_answer_and_the_revised_one_takes_it_back(
    wire, tmp_path, cascade
):
    rule = '[[rule]]\nclass = "large"\nmin_probability = 0.5\naction = {mark = "0x1/0xff"}\n'
    (tmp_path / "policy.toml").write_text(rule)
    flow = {20000: 5}  # large at its first packet, as it seems, and unknown with four
    sender = threading.Thread(target=send, args=(wire, flow))
    told = []
    with live.attach(
        wire.device,
        cascade=cascade,
        policy=tmp_path / "policy.toml",
        netns=wire.near,
        duration_s=20,
    ) as tap:
        sender.start()
        for verdicts in tap:
            for i in np.flatnonzero(verdicts.flows.key["protocol"] == 17).tolist():
                flow_id = int(verdicts.flows.flow_id[i])
                word = int(tap._tap.verdicts[flow_id % len(tap._tap.verdicts)])
                assert word >> VERDICT_CONSTANTS["VERDICT_FLOW_SHIFT"] == flow_id
                action = word >> VERDICT_CONSTANTS["VERDICT_ACTION_SHIFT"] & 0xFF
                told.append((EVENTS[verdicts.event[i]], verdicts.name(i), action))
            if len(told) == 2:
                tap.stop()
        sender.join()
    assert told == [("early", "large", 1), ("revised", "unknown", 0)]


def test_a_shadow_beside_a_cascade_sees_whole_rows(wire, tmp_path):
    """Small flows seem large by their first packet, and are unknown by four."""
    first, last, shadow = (
        write_model(tmp_path / f"{name}.onnx", n).name
        for name, n in (("first", 1), ("last", 4), ("shadow", 4))
    )
    stages = (Stage(1, first, rule=Rule("threshold", 0.5)), Stage(4, last))
    Cascade(stages, wait_s=600.0).save(tmp_path / "c.toml")
    said = {}
    with live.attach(
        wire.device, cascade=tmp_path / "c.toml", shadow=tmp_path / shadow, netns=wire.near
    ) as tap:

        def end_once_compared() -> None:
            if tap.shadow_report()["flows"] == len(PORTS):
                tap.stop()

        tap.at_checks(end_once_compared)
        send(wire, dict.fromkeys(PORTS, 4))
        for verdicts in tap:
            for i, flow in enumerate(verdicts.flows.flow_id.tolist()):
                assert flow not in said
                said[flow] = verdicts.name(i), int(verdicts.packets_used[i])
        report, counters = tap.shadow_report(), tap.counters()
    assert list(said.values()) == [("large", 1)] * len(PORTS)
    assert (report["agreed"], report["skipped"]) == (2, 0)
    assert report["differences"] == [{"active": "large", "shadow": "unknown", "flows": 2}]
    assert counters["PACKETS_SETTLED"] == counters["REGROUP_LEFT"] == 0
    assert counters["PACKETS_FIRST_N"] == counters["REGROUP_STORED"] == 4 * len(PORTS)
