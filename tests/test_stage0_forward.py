"""A wire whose kernel judges: sure flows are answered there, and every packet still passes."""

# ruff: noqa: F401, F811  (bed is a fixture, imported and then taken as an argument)

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from kernel_fixtures import NEEDS_FORWARD
from test_stage0_beside import ALL, DEPTH, HOOKS, LAST, Answers, save
from test_stage0_live import SENT, cascade
from waiting import stop_after
from wires import CLIENT, PORT, SERVER, Bed, bed

from etcpipe.live import attach as live
from etcpipe.verdict import SOURCE_KERNEL

pytestmark = [pytest.mark.root, NEEDS_FORWARD]

SURE, BETWEEN = 21000, 21002
NEVER_IDLE_S = 600.0


def pass_on(bed: Bed, flows: Sequence[tuple[int, int, int]]) -> None:
    """Send (source port, bytes, packets) from the client, each of which must reach the server."""
    kind = (socket.AF_INET, socket.SOCK_DGRAM)
    with bed.socket_in(bed.server, *kind) as server, ExitStack() as stack:
        server.bind((SERVER, PORT))
        for port, size, packets in flows:
            client = stack.enter_context(bed.socket_in(bed.client, *kind))
            client.bind((CLIENT, port))
            client.connect((SERVER, PORT))
            for i in range(packets):
                sent = bytes([i]) * size
                client.send(sent)
                assert server.recvfrom(2000) == (sent, (CLIENT, port))


@HOOKS
def test_a_wire_s_sure_flows_are_answered_in_the_kernel_and_all_packets_pass(bed, tmp_path, how):
    """Three stages beside copies."""
    with live.attach(
        "p0",
        forward="p1",
        cascade=save(tmp_path),
        stage0="kernel",
        netns=bed.box,
        wait_s=NEVER_IDLE_S,
        **how,
    ) as tap:
        assert tap.mode == how["mode"]
        answers = Answers(tap)
        pass_on(bed, [(SURE, 1200, ALL), (BETWEEN, 700, ALL)])
        answers.until((lambda: answers.has_counted(2 * LAST) and len(answers.said) == 2, tap.stop))
        answers.assert_exact(settled=LAST - DEPTH + 1)
        counters = tap.counters()
    assert answers.said == {
        SURE: ("large", 0, DEPTH, True),
        BETWEEN: ("large", 2, LAST, False),
    }
    assert (counters["FLOWS_TREE_SURE"], counters["FLOWS_TREE_UNSURE"]) == (1, 1)
    assert counters["PACKETS_NOT_FORWARDED"] == 0


@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_a_wire_that_copies_nothing_answers_all_flows(bed, cascade, mode):
    """Two stages on columns, which the kernel gathers."""
    found = {}
    with live.attach(
        "p0", forward="p1", cascade=cascade, stage0="kernel", netns=bed.box, mode=mode
    ) as tap:
        assert tap.capture == "features"
        pass_on(bed, [(port, *sent) for port, sent in SENT.items()])
        stop_after(tap, lambda: len(found) == len(SENT))
        for verdicts in tap:
            for i, key in enumerate(verdicts.flows.key):
                port = max(int(key["a_port"]), int(key["b_port"]))
                by_kernel = verdicts.source[i] == SOURCE_KERNEL
                found[port] = int(verdicts.stage[i]), int(verdicts.packets_used[i]), by_kernel
        counters = tap.counters()
    assert found == {
        21000: (0, 2, True),
        21001: (0, 2, True),
        21002: (1, 5, False),
        21003: (0, 1, False),
        21004: (1, 3, False),
    }
    assert counters["PACKETS_CLONED"] == counters["PACKETS_NOT_FORWARDED"] == 0
