"""Every flow that began is in the table, ended with a record, was taken over, or was evicted."""

from time import sleep

import captures
import numpy as np
import pytest
from captures import ACK, RST, SYN, ether
from kernel_fixtures import Wire, pinned_flows

from etcpipe.kernel import status
from etcpipe.kernel.tap import Tap, TapSettings

pytestmark = pytest.mark.root

NEAR, FAR = "10.77.0.1", "10.77.0.2"
FLOWS, TABLE = 600, 64
SOON_S = 0.05
SETTINGS = TapSettings(
    max_flows=TABLE, idle_timeout_s=SOON_S, establish_timeout_s=SOON_S, tombstone_timeout_s=60
)


def datagram(port: int) -> bytes:
    return ether(captures.udp(b"x" * 20, FAR, NEAR, port, 9))


def segment(flags: int) -> bytes:
    return ether(captures.tcp(b"", flags, FAR, NEAR, 77, 9))


def shown(wire: Wire) -> dict:
    return status.show(wire.device, wire.near)[0]


def ports_in_table(wire: Wire) -> set[int]:
    """Return the ports at the far end whose flows the kernel still has."""
    return far_ports(pinned_flows(wire)[0])


def far_ports(keys: np.ndarray) -> set[int]:
    """Return the far ends' ports; the nearer address is the smaller one, end a."""
    return set(keys["b_port"].astype(int).tolist())


def quiet(wire: Wire) -> None:
    """Have neither host say a word that the test does not send."""
    for namespace in (wire.near, wire.far):
        wire.shell(namespace, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1")


def test_flows_add_up(wire: Wire) -> None:
    quiet(wire)
    reported: set[int] = set()
    sent = set(range(1000, 1000 + FLOWS))
    with Tap(wire.device, SETTINGS, netns=wire.near, keep=True) as opened:
        sweeper = opened.sweeper(lambda records: reported.update(far_ports(records["key"])))
        opened.start()
        with wire.raw() as sender:
            for port in sorted(sent):
                sender.send(datagram(port))
        in_table = ports_in_table(wire)
        wanted = len(sent - in_table)
        assert wanted >= FLOWS - 2 * TABLE  # a table is whole sets
        assert shown(wire)["counters"]["FLOWS_EVICTED"] == wanted

        sleep(2 * SOON_S)
        sweeper.sweep()
        assert reported == in_table
        after = shown(wire)
        counted = after["counters"]
        assert (after["flows"], counted["FLOWS_ENDED"]) == (0, len(in_table))
        assert (counted["FLOWS_CREATED"], counted["FLOWS_EVICTED"]) == (FLOWS, wanted)
    # who comes later goes on counting
    with Tap(wire.device, SETTINGS, netns=wire.near) as opened:
        assert opened.adopted
        assert opened.counters()["FLOWS_ENDED"] == len(in_table)
        assert shown(wire)["counters"]["FLOWS_EVICTED"] == wanted


def test_a_tuple_that_a_syn_takes_over_is_one_restarted(wire: Wire) -> None:
    quiet(wire)
    with Tap(wire.device, SETTINGS, netns=wire.near) as opened, wire.raw() as sender:
        opened.start()
        for flags in (SYN, RST, ACK, SYN):  # a straggler between end and new beginning
            sender.send(segment(flags))
        after = shown(wire)
    counted = after["counters"]
    assert (counted["FLOWS_CREATED"], counted["FLOWS_RESTARTED"], after["flows"]) == (1, 1, 1)
    assert (counted["FLOWS_ENDED"], counted["FLOWS_EVICTED"]) == (0, 0)
