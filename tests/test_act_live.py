"""Verdicts act on live traffic, by every way to attach, and stop with another policy."""

import socket
from collections import Counter

import numpy as np
import pytest
from kernel_fixtures import NEEDS_TCX, Wire
from waiting import until

from etcpipe.kernel import netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import FLOW_KEY
from etcpipe.policy import rules as policy

pytestmark = pytest.mark.root

NEAR, FAR = "10.77.0.1", "10.77.0.2"
PORT = 4433
WAYS = [
    pytest.param({"mode": "tc", "hook": "tcx"}, id="tc by tcx", marks=NEEDS_TCX),
    pytest.param({"mode": "tc", "hook": "clsact"}, id="tc by clsact"),
    pytest.param({"mode": "xdp"}, id="xdp"),
    pytest.param({"mode": "tc", "loader": "bcc"}, id="tc by bcc", marks=pytest.mark.exhaustive),
]
DROP = '[[rule]]\nclass = "a"\naction = {drop = true}'
MARK = '[[rule]]\nclass = "a"\naction = {mark = 1}'


def send(wire: Wire, tap: Tap, n: int, first_port: int = PORT + 1) -> None:
    """Send datagrams of a flow and return when the kernel has counted them."""
    before = packets_of(tap, first_port)
    with netns.enter(wire.far):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.bind((FAR, first_port))
        for _ in range(n):
            sender.sendto(bytes(20), (NEAR, PORT))
    until(lambda: packets_of(tap, first_port) >= before + n)


def state_of(tap: Tap, first_port: int) -> np.void:
    """Return what the kernel knows of the flow."""
    key = np.zeros(1, FLOW_KEY)
    for name, address in (("a_addr", NEAR), ("b_addr", FAR)):
        mapped = bytes(10) + b"\xff\xff" + socket.inet_aton(address)
        key[name] = np.frombuffer(mapped, np.uint8)
    key["a_port"], key["b_port"], key["protocol"], key["ip_version"] = PORT, first_port, 17, 4
    return tap.records(key)[0]


def packets_of(tap: Tap, first_port: int) -> int:
    return int(state_of(tap, first_port)["packets"].sum())


def slot_of(tap: Tap, first_port: int = PORT + 1) -> tuple[int, int]:
    """Return the flow's id and its slot among the verdicts."""
    flow_id = int(state_of(tap, first_port)["flow_id"])
    assert flow_id
    return flow_id, flow_id % len(tap.verdicts)


def judge(tap: Tap, first_port: int = PORT + 1) -> None:
    """Give the flow a verdict whose action is the first rule's."""
    flow_id, slot = slot_of(tap, first_port)
    words = policy.verdict_words(np.array([flow_id], np.uint64), np.array([0]), np.uint8([1]))
    tap.verdicts[slot] = words[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_judged_flow_is_dropped_and_others_are_not(wire, way):
    with Tap(wire.device, TapSettings(policy=True, **way), netns=wire.near) as tap:
        tap.set_actions(policy.parse(DROP).actions())
        tap.start()
        with netns.enter(wire.near):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            receiver.bind((NEAR, PORT))
        with receiver:
            receiver.setblocking(False)
            for port in (PORT + 1, PORT + 2):
                send(wire, tap, 12, port)
            judge(tap)
            for port in (PORT + 1, PORT + 2):
                send(wire, tap, 5, port)
            got: Counter[int] = Counter()
            until(lambda: receive(receiver, got)[PORT + 2] == 12 + 5)
            assert got == {PORT + 1: 12, PORT + 2: 12 + 5}
        assert tap.counters()["PACKETS_POLICY_DROP"] == 5


def receive(receiver: socket.socket, counts: Counter[int]) -> Counter[int]:
    """Add what has come to the count of datagrams from each port; returns that."""
    while True:
        try:
            counts[receiver.recvfrom(100)[1][1]] += 1
        except BlockingIOError:
            return counts


@pytest.mark.parametrize(("second", "acts"), [(DROP, True), (MARK, False)])
def test_an_adopted_verdict_acts_only_by_the_policy_that_made_it(wire, second, acts):
    settings = TapSettings(policy=True)
    with Tap(wire.device, settings, netns=wire.near, keep=True) as tap:
        tap.set_actions(policy.parse(DROP).actions())
        tap.start()
        send(wire, tap, 1)
        judge(tap)
        before = int(tap.verdicts[slot_of(tap)[1]])
    with Tap(wire.device, settings, netns=wire.near) as tap:
        assert tap.adopted
        tap.set_actions(policy.parse(second).actions())
        assert int(tap.verdicts[slot_of(tap)[1]]) == (before if acts else before & ~0xFF00)
