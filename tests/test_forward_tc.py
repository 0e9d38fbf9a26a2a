"""What forward mode does where TC sends packets on, beyond what both ways do (test_forward.py)."""

import socket

import pytest
from kernel_fixtures import NEEDS_FORWARD, run
from wires import PORT, connected, exchange, transferred, udp, wire

from etcpipe.errors import UsageError
from etcpipe.live import attach as live
from etcpipe.policy import rules as policy

pytestmark = [pytest.mark.root, NEEDS_FORWARD]

HOLD = policy.parse('[[rule]]\nclass = "a"\naction = {dscp = "cs1"}')
CS1 = 8
MSS = 1448


def test_a_veth_is_forwarded_by_tc_and_why_is_told(bed):
    with wire(bed, "auto") as box, udp(bed) as (client, server):
        exchange(client, server, 1)
        told = box.forward.mode, box.forward.mode_reason
    assert told == ("tc", "native XDP on veth costs more than it gives")


def test_super_packets_stay_whole_and_count_by_their_segments(bed):
    size = 2_000_000
    for namespace, device in ((bed.client, "c0"), (bed.server, "s0")):
        bed.shell(namespace, f"ethtool -K {device} tx on tso on gso on")
    with wire(bed, "tc", first_n=20) as box:
        with connected(bed) as (client, server):
            assert transferred(client, server, size) == size
            state = box.state(socket.IPPROTO_TCP, client.getsockname()[1], PORT)
        box.drain()
        counters = box.counters()
    assert sorted(box.ranks()) == list(range(20))
    assert max(map(len, box.frames)) <= 1514
    assert state["packets"].max() >= size // MSS
    assert counters["PACKETS_SEEN"] < size // MSS


def test_verdicts_act_on_the_way_to_the_other_port(bed):
    with wire(bed, "tc", policy=True) as box, udp(bed) as (client, server):
        box.forward.set_actions(HOLD.actions())
        server.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        exchange(client, server, 2)
        box.verdicts(PORT + 1, PORT, action=1)
        client.send(b"held")
        _, told, _, _ = server.recvmsg(100, 100)
        acted = box.counters()["PACKETS_ACTED"]
    assert told[0][2][0] >> 2 == CS1
    assert acted == 1


def test_the_other_port_keeps_its_queueing(bed):
    run(f"ip netns exec {bed.box} tc qdisc add dev p1 root pfifo")
    with wire(bed, "tc") as box, udp(bed) as (client, server):
        exchange(client, server, 3)
        box.drain()
    sent = run(f"ip netns exec {bed.box} tc -s qdisc show dev p1")
    assert "4 pkt" in sent  # the client asked for the server's address first
    assert box.ranks() == [0, 1, 2]


@pytest.mark.parametrize(
    "settings", [{"queues": 2}, pytest.param({"loader": "bcc"}, marks=pytest.mark.exhaustive)]
)
def test_what_xdp_cannot_do_is_done_by_tc(bed, settings):
    with wire(bed, "auto", **settings) as box, udp(bed) as (client, server):
        exchange(client, server, 12)
        counters = box.counters()
    assert box.forward.mode == "tc"
    assert counters["PACKETS_FIRST_N"] == counters["PACKETS_CLONED"] == 10


def test_a_policy_that_needs_tc_asks_for_it(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text('[[rule]]\nclass = "ssh_shell"\naction = {dscp = "cs1"}\n')
    with pytest.raises(UsageError, match=r"toml:2: where XDP forwards the only .* drop: use"):
        live.attach("p0", forward="p1", policy=file, mode="xdp")
    assert live._mode_of_wire("auto", HOLD) == "tc"
