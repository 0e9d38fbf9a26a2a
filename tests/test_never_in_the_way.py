"""Whatever happens to the consumer, its memory or its devices: traffic goes on without loss.

Counters must tell what happened, and the next attach must work.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import captures
import pytest
from kernel_fixtures import Wire, kill, run
from load import FLOWS, Load, Stream

from etcpipe.kernel import netns, status
from etcpipe.kernel.journal import PINS, RUN
from etcpipe.kernel.tap import Tap, TapSettings

pytestmark = pytest.mark.root

ENOUGH = 6000  # datagrams; a hundred of each flow

# A whole consumer with a small ring. SIGTERM ends it and makes it say what it saw.
CONSUMER = """
import json, signal, sys
from etcpipe.errors import EtcpipeError
from etcpipe.kernel import netns
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.ring import Ring
device, namespace, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
going, received = [True], 0
signal.signal(signal.SIGTERM, lambda *_: going.clear())
try:
    with Tap(device, TapSettings(**settings), netns=namespace) as tap:
        with netns.enter(namespace):
            ring = Ring(tap.mirror_ifindex, frames=1024, ring_size=1024, idle_s=0.02)
        with ring:
            tap.bind(ring.fd)
            tap.start()
            print("ready", flush=True)
            while going:
                received += len(ring.receive())
            seen = {"received": received, **ring.statistics(), **tap.counters()}
except EtcpipeError as error:
    seen = {"error": str(error)}
print(json.dumps(seen))
"""


def consumer(wire: Wire, **settings: object) -> subprocess.Popen:
    """Start a consumer and return when it receives."""
    command = [sys.executable, "-c", CONSUMER, wire.device, wire.near, json.dumps(settings)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen) -> dict:
    """End a consumer; returns what it saw."""
    process.terminate()
    return json.loads(process.communicate(timeout=20)[0])


def counters(wire: Wire) -> dict[str, int]:
    return status.show(wire.device, wire.near)[0]["counters"]


def assert_attaches(wire: Wire) -> None:
    """Check that a tap of other settings works, and that nothing is left when it is gone."""
    with Tap(wire.device, netns=wire.near) as opened, Load(wire) as load:
        opened.start()
        seen = opened.counters()["PACKETS_SEEN"]
        load.wait_for(FLOWS)
        assert not opened.adopted
        assert opened.counters()["PACKETS_SEEN"] > seen
    assert wire.leftovers() == []


def test_the_consumer_is_killed_under_load(wire: Wire) -> None:
    with Stream(wire), Load(wire) as load:
        process = consumer(wire, first_n=64)
        load.wait_for(FLOWS * 10)
        kill(process)
        load.wait_for(ENOUGH)
        counted = counters(wire)
    assert counted["PACKETS_REDIRECTED"] > 0
    assert counted["PACKETS_NO_CONSUMER"] > 0
    assert_attaches(wire)


def test_the_consumer_is_frozen_and_its_ring_fills_up(wire: Wire) -> None:
    process = consumer(wire, first_n=64)
    with Stream(wire), Load(wire) as load:
        process.send_signal(signal.SIGSTOP)
        load.wait_for(ENOUGH)
        process.send_signal(signal.SIGCONT)
    seen = ended(process)
    # 60 flows of 64 do not go into a ring of 1024: the socket says how many were refused
    assert seen["rx_ring_full"] + seen["rx_dropped"] > FLOWS * 64 - 2 * 1024
    assert seen["PACKETS_REDIRECTED"] == (
        seen["received"] + seen["rx_ring_full"] + seen["rx_dropped"]
    )
    assert_attaches(wire)


def test_more_flows_than_the_table_holds(wire: Wire) -> None:
    with Tap(wire.device, TapSettings(max_flows=64), netns=wire.near) as opened:
        opened.start()
        with Stream(wire), Load(wire) as load, wire.raw() as sender:
            for port in range(20_000, 25_000):
                sender.send(captures.ether(captures.udp(b"x" * 40, sport=port)))
            load.wait_for(ENOUGH)
        counted = opened.counters()
        (shown,) = status.show(wire.device, wire.near)
    assert shown["flows"] <= 128  # the kernel rounds up to its lists
    assert counted["FLOWS_CREATED"] + counted["PACKETS_TABLE_FULL"] >= 5000
    assert_attaches(wire)


@contextmanager
def memory_limit(size: int) -> Iterator[list[str]]:
    """Make a control group with so many bytes; gives the command prefix that enters it."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, name = (old, "memory.limit_in_bytes") if old.is_dir() else (new, "memory.max")
    group = root / f"etcp{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(size))
    except OSError as error:
        pytest.skip(f"no memory control group: {error}")
    try:
        yield ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        group.rmdir()


def test_no_memory_for_the_flow_table(wire: Wire) -> None:
    settings = json.dumps({"max_flows": 1 << 22, "loader": "libbpf"})
    with Load(wire) as load, memory_limit(200 << 20) as limited:
        done = subprocess.run(
            [*limited, sys.executable, "-c", CONSUMER, wire.device, wire.near, settings],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
            timeout=60,
        )
        load.wait_for(FLOWS)
    assert "no memory for the flow table" in done.stdout, done
    assert wire.leftovers() == []
    assert_attaches(wire)


def test_no_memory_for_the_socket(wire: Wire) -> None:
    limited = ["setpriv", "--bounding-set=-ipc_lock", "prlimit", "--memlock=1048576"]
    with Load(wire) as load:
        done = subprocess.run(
            [*limited, sys.executable, "-c", CONSUMER, wire.device, wire.near, "{}"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
            timeout=60,
        )
        load.wait_for(FLOWS)
    assert "exceed the memory lock limit" in done.stdout, done
    assert wire.leftovers() == []
    assert_attaches(wire)


def test_the_device_goes_down_and_up(wire: Wire) -> None:
    process = consumer(wire)
    for _ in range(2):
        with Load(wire) as load:
            load.wait_for(FLOWS * 20)
        run(f"ip -n {wire.near} link set {wire.device} down")
        run(f"ip -n {wire.near} link set {wire.device} up")
    with Stream(wire, mbytes=20), Load(wire) as load:
        load.wait_for(FLOWS * 20)
    assert ended(process)["PACKETS_SEEN"] >= 3 * FLOWS * 20
    assert_attaches(wire)


def test_packets_grow_beyond_what_the_mirror_was_made_for(wire: Wire) -> None:
    process = consumer(wire)
    for namespace, device in [(wire.near, wire.device), (wire.far, wire.peer)]:
        run(f"ip -n {namespace} link set {device} mtu 9000")
    with Stream(wire, mbytes=20), Load(wire, payload_bytes=8000) as load:
        load.wait_for(FLOWS * 20)
    seen = ended(process)
    assert seen["received"] >= FLOWS * 10
    assert seen["PACKETS_CLONE_FAILED"] == 0
    assert_attaches(wire)


def test_somebody_deletes_the_mirror(wire: Wire) -> None:
    with Tap(wire.device, TapSettings(first_n=64), netns=wire.near) as opened:
        opened.start()
        with Stream(wire), Load(wire) as load:
            load.wait_for(FLOWS * 10)
            (mirror, *_) = [name for name in wire.devices() if name.startswith("etcm")]
            run(f"ip -n {wire.near} link del {mirror}")
            assert not opened.alive()
            load.wait_for(ENOUGH)
            counted = opened.counters()
    assert counted["PACKETS_CLONE_FAILED"] > 0
    assert counted["PACKETS_FIRST_N"] == (
        counted["PACKETS_CLONED"] + counted["PACKETS_CLONE_FAILED"] + counted["PACKETS_PUSH_FAILED"]
    )
    assert_attaches(wire)


def test_the_consumer_ends_by_itself_without_its_mirror(wire: Wire) -> None:
    process = consumer(wire)
    (mirror, *_) = [name for name in wire.devices() if name.startswith("etcm")]
    with Load(wire) as load:
        run(f"ip -n {wire.near} link del {mirror}")
        load.wait_for(FLOWS)
    assert "error" in json.loads(process.communicate(timeout=20)[0])
    assert wire.leftovers() == []
    assert_attaches(wire)


def test_the_namespace_is_deleted_with_the_tap_attached() -> None:
    gone = Wire(f"etcpg{os.getpid()}")
    inode = netns.inode(gone.near)
    process = consumer(gone)
    with Load(gone) as load:
        load.wait_for(FLOWS * 10)
    gone.close()  # the consumer holds it still, and its devices
    seen = ended(process)
    assert seen["PACKETS_SEEN"] >= FLOWS * 10
    assert not list(RUN.glob(f"{inode}/*")) and not list(PINS.glob(f"{inode}/*"))

    again = Wire(f"etcpg{os.getpid()}")
    try:
        assert_attaches(again)
    finally:
        again.close()
