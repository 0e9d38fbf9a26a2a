"""A capture replayed through the kernel gives what `etcpipe classify` sees in the file."""

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from etcpipe.batch import FlowBatch, concatenate
from etcpipe.capture import Capture
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import MASKS, VIEWS, compute
from etcpipe.kernel import netns, tap
from etcpipe.layout import FLOW_KEY
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

pytestmark = pytest.mark.root

FIRST_N = 10
RAW_LEN = max(view.raw_len for view in VIEWS.values())
# No gap is ever above it: a replay at another speed then closes no row earlier.
NEVER_S = 86400.0
QUIET_S = 0.5
# The counters of the tracker, as opposed to those of the mirror that only live traffic has.
TRACKED = (
    "PACKETS_SEEN",
    "PACKETS_NOT_IP",
    "PACKETS_MALFORMED",
    "PACKETS_FRAGMENT",
    "PACKETS_TRACKED",
    "PACKETS_FIRST_N",
    "FLOWS_CREATED",
    "FLOWS_RESTARTED",
)
CAPTURES = sorted(Path(__file__).parent.glob("data/lab/*.pcap"))


def offline(path: Path, mask: str) -> tuple[FlowBatch, np.ndarray, dict[str, int]]:
    capture = Capture([path], first_n=FIRST_N)
    regroup = Regroup(FIRST_N, raw_len=RAW_LEN, wait_s=NEVER_S, mask=mask)
    rows = [regroup.add(batch, capture.clock_ns()) for batch in capture]
    return concatenate([*rows, regroup.flush()]), capture.finish(), capture.counters


def live(
    path: Path, mask: str, capture: str
) -> tuple[FlowBatch, np.ndarray, dict[str, int], dict[str, int]]:
    """Replay the file over a veth pair in a namespace; a tap listens at its far end."""
    name = f"etcparity{os.getpid()}"
    with ExitStack() as stack:
        subprocess.run(["ip", "netns", "add", name], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
        stack.enter_context(netns.enter(name))
        make_pair("send0", "tap0")
        settings = tap.TapSettings(first_n=FIRST_N, mode="tc", capture=capture)
        tapped = stack.enter_context(tap.Tap("tap0", settings))
        ring: Ring | RingBuffer
        if capture == "ringbuf":
            ring = stack.enter_context(RingBuffer(tapped.records_fd, settings.ringbuf_bytes))
        else:
            ring = stack.enter_context(Ring(tapped.mirror_ifindex))
            tapped.bind(ring.fd)
        tapped.start()
        regroup = Regroup(FIRST_N, raw_len=RAW_LEN, wait_s=NEVER_S, mask=mask)
        replay = subprocess.Popen(
            ["tcpreplay", "--intf1=send0", "--pps=20000", str(path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        rows = list(drain(ring, regroup, replay))
        assert replay.returncode == 0
        flows = concatenate([*rows, regroup.flush()])
        return flows, tapped.records(flows.key), tapped.counters(), ring.statistics()


def make_pair(*names: str) -> None:
    commands = [f"link add {names[0]} type veth peer name {names[1]}"]
    for device in names:
        commands += [f"link set {device} addrgenmode none", f"link set {device} up"]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def drain(ring: Ring | RingBuffer, regroup: Regroup, replay: subprocess.Popen):
    quiet_since = monotonic()
    while replay.poll() is None or monotonic() - quiet_since < QUIET_S:
        batch = ring.receive()
        if len(batch):
            quiet_since = monotonic()
        yield regroup.add(batch)


def in_order_of_key(flows: FlowBatch) -> FlowBatch:
    """Sort by five-tuple, flows of one tuple in the order in which they came."""
    keys = flows.key.view(f"V{FLOW_KEY.itemsize}").ravel()
    order = sorted(range(len(keys)), key=lambda i: (keys[i].tobytes(), int(flows.flow_id[i])))
    return flows.select(np.array(order))


def without_time(packets: np.ndarray) -> np.ndarray:
    packets = packets.copy()
    packets["timestamp_ns"] = 0
    return packets


@pytest.mark.parametrize("path", CAPTURES[:1], ids=lambda path: path.name)
@pytest.mark.parametrize("mask", ["strict", "none"])
@pytest.mark.parametrize("capture", ["afxdp", "ringbuf"])
def test_replay_gives_the_same_flows_packets_and_model_inputs(path, capture, mask):
    from_file, ended, counted = offline(path, mask)
    from_wire, records, counters, ring = live(path, mask, capture)
    expected, seen = in_order_of_key(from_file), in_order_of_key(from_wire)

    # Both counted alike, and every one of the first N reached the consumer.
    assert {name: counters[name] for name in TRACKED} == {name: counted[name] for name in TRACKED}
    assert counters["PACKETS_FIRST_N"] == from_file.packets["present"].sum()
    assert counters["PACKETS_CLONED"] == counters["PACKETS_FIRST_N"]
    if capture == "afxdp":
        assert counters["PACKETS_REDIRECTED"] == counters["PACKETS_FIRST_N"]
    assert not any(ring.values())

    # The same flows with the same totals.
    np.testing.assert_array_equal(seen.key, expected.key)
    np.testing.assert_array_equal(seen.initiator, expected.initiator)
    totals = {record["key"].tobytes(): record["state"] for record in ended}
    order = np.argsort(from_wire.flow_id)
    last = {from_wire.key[i].tobytes(): records[i] for i in order}
    for key, state in last.items():
        np.testing.assert_array_equal(state["packets"], totals[key]["packets"])
        np.testing.assert_array_equal(state["bytes"], totals[key]["bytes"])

    # The same packets in the same places, byte for byte but for the clock.
    np.testing.assert_array_equal(without_time(seen.packets), without_time(expected.packets))
    np.testing.assert_array_equal(seen.raw, expected.raw)

    # With the file's clock the same model inputs, byte for byte.
    seen.packets["timestamp_ns"] = expected.packets["timestamp_ns"]
    for view in VIEWS.values():
        columns = view.column_names(mask) if view.name == "stats" else None
        assert (
            compute(view, seen, FIRST_N, columns).tobytes()
            == compute(view, expected, FIRST_N, columns).tobytes()
        )
    assert set(MASKS) >= {mask}


def test_there_are_captures_to_replay():
    assert CAPTURES
