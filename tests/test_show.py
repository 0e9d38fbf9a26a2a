"""`etcpipe -s show` against known traffic, counter by counter."""

import json
from pathlib import Path

import captures
import numpy as np
import pytest
from captures import RST, SYN, ether
from command import fails, run
from kernel_fixtures import Wire
from test_bpf_tap import ipv4
from test_flow_account import quiet
from test_lifetime import FAR, NEAR, tracked

from etcpipe.kernel import netns
from etcpipe.kernel.journal import run_path
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import PACKET_COUNTERS
from etcpipe.policy import rules as policy

pytestmark = pytest.mark.root

FIRST_N = 2
DROP = '[[rule]]\nclass = "a"\naction = {drop = true}'
MARK = '[[rule]]\nclass = "a"\naction = {mark = 1}'


def datagram(port: int) -> bytes:
    return ether(captures.udp(b"x" * 20, FAR, NEAR, port, 9))


def segment(flags: int) -> bytes:
    return ether(captures.tcp(b"", flags, FAR, NEAR, 77, 9))


KNOWN = [
    *[datagram(1001)] * 3,
    datagram(1002),
    *map(segment, (SYN, RST, SYN)),  # opened, reset, opened anew
    bytes(12) + b"\x08\x06" + bytes(46),  # ARP
    ipv4(total=19),  # shorter than its header
    ipv4(fragment=100),  # whose first fragment nobody saw
]
SEEN = {
    "PACKETS_SEEN": 10,
    "PACKETS_NOT_IP": 1,
    "PACKETS_MALFORMED": 1,
    "PACKETS_FRAGMENT": 1,
    "PACKETS_TRACKED": 7,
    "PACKETS_FIRST_N": 3,  # two of one flow, one of the other
    "FLOWS_CREATED": 3,
    "FLOWS_RESTARTED": 1,
}
COPIED = {
    "afxdp": {"PACKETS_CLONED": 3, "PACKETS_NO_CONSUMER": 3},  # no socket is there
    "ringbuf": {"PACKETS_CLONED": 3},
}


def send(wire: Wire, frames: list[bytes]) -> None:
    with wire.raw() as sender:
        for frame in frames:
            sender.send(frame)


def counters(wire: Wire) -> dict[str, int]:
    """Return the counters that the command shows, without those that are zero."""
    (shown,) = json.loads(run("-j", "-n", wire.near, "show", wire.device, check=0).stdout)
    assert set(shown["counters"]) == {*PACKET_COUNTERS, "FLOWS_EVICTED"}
    return {name: n for name, n in shown["counters"].items() if n}


@pytest.mark.parametrize("mode", ["tc", "xdp"])
@pytest.mark.parametrize("capture", COPIED)
def test_every_counter_is_what_was_sent(wire: Wire, mode: str, capture: str) -> None:
    quiet(wire)
    settings = TapSettings(mode=mode, capture=capture, first_n=FIRST_N)
    with Tap(wire.device, settings, netns=wire.near) as opened:
        opened.start()
        before = counters(wire)
        send(wire, KNOWN)
        after = counters(wire)
        moved = {name: n - before.get(name, 0) for name, n in after.items()}
    assert {name: n for name, n in moved.items() if n} == {**SEEN, **COPIED[capture]}


def test_what_a_filter_and_a_policy_did_is_counted(wire: Wire) -> None:
    quiet(wire)
    with Tap(wire.device, TapSettings(policy=True, first_n=FIRST_N), netns=wire.near) as opened:
        opened.set_filter("udp")
        opened.start()
        send(wire, KNOWN)
        for text in (MARK, DROP):
            opened.set_actions(policy.parse(text).actions())
            flow_id = tracked(opened)["flow_id"]
            word = policy.verdict_words(np.array([flow_id]), np.array([0]), np.uint8([1]))
            opened.verdicts[int(flow_id) % len(opened.verdicts)] = word[0]
            send(wire, [datagram(1001)] * 4 + [datagram(1002)])
        shown = counters(wire)
    assert shown == {
        "PACKETS_SEEN": 10 + 5 + 5,
        "PACKETS_FILTERED": 6,
        "PACKETS_TRACKED": 4 + 5 + 5,
        "PACKETS_FIRST_N": 2 + 2,
        "PACKETS_CLONED": 4,
        "PACKETS_NO_CONSUMER": 4,
        "PACKETS_ACTED": 4,
        "PACKETS_POLICY_DROP": 4,
        "FLOWS_CREATED": 2,
    }


def test_maps_of_another_version_are_left_alone(wire: Wire) -> None:
    with Tap(wire.device, TapSettings(), netns=wire.near) as opened:
        opened.start()
        path = run_path(netns.inode(wire.near), wire.device, ".json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "abi": 1}))
        (shown,) = json.loads(run("-j", "-n", wire.near, "show", check=0).stdout)
        followed = run("-n", wire.near, "monitor", "-c", "1", check=0).stdout
        refused = fails("-n", wire.near, "filter", wire.device, "udp", status=1)
    assert (shown["counters"], shown["flows"]) == ({}, 0)
    assert wire.device in followed
    assert refused == f"{wire.device}: another version of etcpipe made the tap: attach anew"


def test_the_table_for_people_says_the_same(wire: Wire) -> None:
    quiet(wire)
    with Tap(wire.device, TapSettings(first_n=FIRST_N, mode="tc"), netns=wire.near) as opened:
        opened.start()
        send(wire, KNOWN)
        taps, packets = run("-s", "-n", wire.near, "show", wire.device, check=0).stdout.split(
            "\n\n"
        )
    heads, row = (line.split() for line in taps.splitlines())
    columns = dict(zip(reversed(heads), reversed(row), strict=False))
    assert (columns["seen"], columns["mirrored"], columns["flows"]) == ("10", "0", "3")
    assert columns["first"] == str(FIRST_N)
    rows = [line.rsplit(maxsplit=1) for line in packets.splitlines()[2:]]
    assert [[name.strip(), count] for name, count in rows] == [
        ["seen", "10"],
        ["not IP", "1"],
        ["malformed", "1"],
        ["fragment", "1"],
        ["tracked", "7"],
        ["among the first N", "3"],
        ["cloned", "3"],
        ["no consumer", "3"],
        ["flows created", "3"],
        ["flows restarted", "1"],
    ]


@pytest.fixture
def run_statistics():
    """Have the kernel count the runs of all programs."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    switch.write_text("1")
    yield
    switch.write_text(before)


def test_runs_of_programs_are_told_where_the_kernel_counts_them(
    wire: Wire, run_statistics: None
) -> None:
    quiet(wire)
    with Tap(wire.device, TapSettings(mode="tc"), netns=wire.near) as opened:
        opened.start()
        before = opened.program_runs().get("tc_track", {"runs": 0, "ns": 0})
        send(wire, [datagram(1001)] * 4)
        after = opened.program_runs()["tc_track"]
    assert after["runs"] == before["runs"] + 4
    assert after["ns"] > before["ns"]
