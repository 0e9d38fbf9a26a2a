"""A verdict's classid reaches other people's TC programs: a queue's classifier, a tcx program."""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import ROOT
from kernel_fixtures import HOOKS, NEEDS_TCX, Wire, run
from test_act_live import FAR, NEAR, PORT, judge

from etcpipe.kernel import bpf, netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.policy import rules as policy

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not (shutil.which("bpftool") and shutil.which("clang")), reason="needs bpftool and clang"
    ),
]

EXAMPLE = ROOT / "examples" / "classid_classifier.bpf.c"
HEADERS = f"-I /usr/include/{os.uname().machine}-linux-gnu"
POLICY = '[[rule]]\nclass = "a"\naction = {classid = "1:20"}'
CLASSID = 0x20
BEFORE, AFTER = 3, 5  # packets that leave before the verdict, and after
CLASS = re.compile(r"^class htb (\S+) .*\n Sent \d+ bytes (\d+) pkt", re.MULTILINE)
HTB = """
qdisc add dev tap0 root handle 1: htb default 10
class add dev tap0 parent 1: classid 1:10 htb rate 1gbit
class add dev tap0 parent 1: classid 1:20 htb rate 1gbit
"""


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    """The example's programs, built and loaded as its comment says."""
    compiled, pins = tmp_path / "classid.o", Path(f"/sys/fs/bpf/etcclassid{os.getpid()}")
    run(f"clang -O2 -g -target bpf {HEADERS} -c {EXAMPLE} -o {compiled}")
    run(f"bpftool prog loadall {compiled} {pins} type classifier")
    try:
        yield pins
    finally:
        shutil.rmtree(pins)


def send(wire: Wire, n: int) -> None:
    """Send datagrams of one flow out of the tapped device."""
    with netns.enter(wire.near):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.bind((NEAR, PORT))
        for _ in range(n):
            sender.sendto(bytes(20), (FAR, PORT + 1))


def send_around_a_verdict(wire: Wire, tap: Tap) -> None:
    tap.set_actions(policy.parse(POLICY).actions())
    send(wire, BEFORE)
    judge(tap)
    send(wire, AFTER)


@HOOKS
def test_a_queue_takes_the_class_of_the_verdict(wire: Wire, pins: Path, hook: str) -> None:
    for command in HTB.strip().splitlines():
        run(f"tc -n {wire.near} {command}")
    classifier = f"bpf da flowid 1: object-pinned {pins}/choose_class"
    wire.shell(wire.near, f"tc filter add dev {wire.device} parent 1: {classifier}")
    before = class_packets(wire)
    with Tap(wire.device, TapSettings(policy=True, hook=hook), netns=wire.near) as tap:
        tap.start()
        send_around_a_verdict(wire, tap)
    after = class_packets(wire)
    assert after["1:20"] - before["1:20"] == AFTER
    assert after["1:10"] - before["1:10"] >= BEFORE


def class_packets(wire: Wire) -> dict[str, int]:
    """Return how many packets each class of the queue sent."""
    shown = run(f"tc -n {wire.near} -s class show dev {wire.device}")
    return {name: int(packets) for name, packets in CLASS.findall(shown)}


@NEEDS_TCX
def test_a_tcx_program_behind_the_tap_reads_it(wire: Wire, pins: Path) -> None:
    program = bpf.pinned(pins / "count_classids")
    with Tap(wire.device, TapSettings(policy=True, hook="tcx"), netns=wire.near) as tap:
        tap.start()
        with netns.enter(wire.near):
            link = bpf.link_create(program, 2, bpf.ATTACH_TCX_EGRESS)
        try:
            send_around_a_verdict(wire, tap)
        finally:
            os.close(link)
    packets = counted(pins)
    os.close(program)
    assert packets[CLASSID] == AFTER
    assert packets[0] >= BEFORE
    assert packets.sum() == packets[CLASSID] + packets[0]


def counted(pins: Path) -> np.ndarray:
    """Return the packets by minor number that count_classids saw."""
    (number,) = json.loads(run(f"bpftool -j prog show pinned {pins}/count_classids"))["map_ids"]
    entries = json.loads(run(f"bpftool -j map dump id {number}"))
    return np.array([sum(cpu["value"] for cpu in e["formatted"]["values"]) for e in entries])
