"""A newer version takes over a running tap, and what etcpipe leaves is what it found."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic_ns, sleep

import captures
import numpy as np
import pytest
from kernel_fixtures import HOOKS, NEEDS_TCX, Wire, bench, consumer, kill, mapped, run
from waiting import until

from etcpipe.kernel import bpf, canary, journal, netns, status
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import CONSTANTS, FLOW_KEY

pytestmark = pytest.mark.root

NEAR, FAR = "10.77.0.1", "10.77.0.2"

# Makes a tap of the plain object, as if an earlier version had, and leaves it.
EARLIER = """
import sys
from etcpipe.kernel import libbpf
from etcpipe.kernel.tap import Tap, TapSettings
libbpf.OBJECTS = ("tap.plain.bpf.o",)
with Tap(sys.argv[1], TapSettings(hook=sys.argv[3], mode=sys.argv[4]), sys.argv[2], True) as tap:
    tap.start()
"""


def leave_earlier_tap(wire: Wire, hook: str = "auto", mode: str = "tc") -> Path:
    """Leave a tap whose programs are not this version's; returns its journal."""
    command = [sys.executable, "-c", EARLIER, wire.device, wire.near, hook, mode]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)
    path = journal.run_path(netns.inode(wire.near), wire.device, ".json")
    edit(path, source_digest="of another version")
    return path


def edit(path: Path, **change: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def datagram(port: int) -> bytes:
    """Return a frame of the flow from that port at the far end, which nobody answers."""
    return captures.ether(captures.udp(b"x" * 100, FAR, NEAR, port, 9))


class Traffic:
    """Datagrams of one flow or of several in turn, from the far end until stop()."""

    FRAME = datagram(1001)
    AT_MOST = 50_000

    def __init__(self, wire: Wire, frames: tuple[bytes, ...] = (FRAME,)):
        self.sent = 0
        self._frames = frames
        self._wire = wire
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        with self._wire.raw() as sender:
            while self.sent < self.AT_MOST and not self._stopping.wait(0.0002):
                sender.send(self._frames[self.sent % len(self._frames)])
                self.sent += 1

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, packets: int) -> None:
        """Return when so many more were sent."""
        until = self.sent + packets
        while self.sent < until:
            assert self._thread.is_alive()
            sleep(0.005)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


def tracked(opened: Tap, port: int = 1001) -> np.void:
    """Return what the kernel knows of the flow of datagram(port)."""
    key = np.zeros(1, FLOW_KEY)
    key["a_addr"], key["b_addr"] = (np.frombuffer(mapped(end), np.uint8) for end in (NEAR, FAR))
    key["a_port"], key["b_port"], key["protocol"], key["ip_version"] = 9, port, 17, 4
    return opened.records(key)[0]


def programs(wire: Wire) -> set[int]:
    """Return the ids of the programs that the tap has pinned."""
    found = set()
    for pin in (journal.PINS / str(netns.inode(wire.near)) / wire.device).glob("prog_*"):
        fd = bpf.pinned(pin)
        found.add(bpf.program_info(fd)[0])
        os.close(fd)
    return found


def is_loaded(program: int) -> bool:
    try:
        os.close(bpf.program_fd(program))
    except FileNotFoundError:
        return False
    return True


@HOOKS
@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_an_upgrade_misses_no_packet_and_forgets_no_flow(wire: Wire, hook: str, mode: str) -> None:
    leave_earlier_tap(wire, hook, mode)
    earlier = programs(wire)
    with Traffic(wire) as traffic:
        traffic.wait_for(200)
        upgraded_at = monotonic_ns()
        with Tap(wire.device, TapSettings(hook=hook, mode=mode), netns=wire.near) as opened:
            opened.start()
            traffic.wait_for(200)
            traffic.stop()
            assert opened.adopted
            flow = tracked(opened)
            until(lambda: not any(map(is_loaded, earlier)))
            assert status.show(wire.device, wire.near)[0]["loader"] == "libbpf (tap.v3.bpf.o)"
    assert flow["packets"].tolist() == [traffic.sent, 0]
    assert flow["first_ns"] < upgraded_at
    assert wire.leftovers() == []


def test_an_upgraded_tap_is_adopted_as_it_is(wire: Wire) -> None:
    leave_earlier_tap(wire)
    with Tap(wire.device, netns=wire.near, keep=True) as opened:
        opened.start()
    now = programs(wire)
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        assert opened.adopted
        assert programs(wire) == now
    assert wire.leftovers() == []


def test_a_setting_that_an_earlier_version_lacked_is_its_default(wire: Wire) -> None:
    path = leave_earlier_tap(wire)
    settings = json.loads(path.read_text())["settings"]
    del settings["policy"]
    edit(path, settings=settings)
    with Tap(wire.device, netns=wire.near) as opened:
        assert opened.adopted


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"abi": 0}, "its maps are of another version (ABI 0)"),
        ({"ready": False}, "its set-up was interrupted"),
        ({"loader": "bcc"}, "bcc cannot load newer programs over its maps"),
        ({"tags": {"tc_track": "0" * 16}}, "somebody replaced its programs"),
    ],
)
def test_what_cannot_be_taken_over_is_made_anew_and_why(
    wire: Wire, caplog: pytest.LogCaptureFixture, change: dict, reason: str
) -> None:
    edit(leave_earlier_tap(wire), **change)
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        assert not opened.adopted
    assert caplog.messages == [f"tap0: not adopting the earlier tap: {reason}"]
    assert wire.leftovers() == []


def test_maps_of_another_shape_are_not_taken_over(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    path = leave_earlier_tap(wire)
    settings = {**json.loads(path.read_text())["settings"], "max_flows": 1024}
    edit(path, settings=settings)
    with Tap(wire.device, TapSettings(max_flows=1024), netns=wire.near) as opened:
        opened.start()
        assert not opened.adopted
    assert "the map flows has another shape" in caplog.text
    assert wire.leftovers() == []


def test_pins_say_of_which_schema_they_are(wire: Wire) -> None:
    with Tap(wire.device, netns=wire.near):
        folder = journal.PINS / str(netns.inode(wire.near)) / wire.device
        assert os.readlink(folder / "schema") == f"etcpipe-abi-{CONSTANTS['ETCPIPE_ABI']}"


def listing(wire: Wire) -> str:
    """Return everything that a tap could have changed, as the usual tools show it."""
    devices = (wire.device, "lo")
    return "".join(
        run(f"{command} {device} {side}".strip())
        for device in devices
        for command, side in [
            (f"ip -n {wire.near} -d link show dev", ""),
            (f"ip -n {wire.near} addr show dev", ""),
            (f"tc -n {wire.near} qdisc show dev", ""),
            (f"tc -n {wire.near} filter show dev", "ingress"),
            (f"tc -n {wire.near} filter show dev", "egress"),
        ]
    ) + run(f"ip -n {wire.near} route show table all")


@HOOKS
@pytest.mark.parametrize("mode", ["tc", "xdp"])
@pytest.mark.parametrize("with_clsact", [False, True])
def test_detach_leaves_the_device_as_it_was_found(
    wire: Wire, hook: str, mode: str, with_clsact: bool
) -> None:
    if with_clsact:
        run(f"tc -n {wire.near} qdisc add dev {wire.device} clsact")
        foreign = "ingress protocol ip prio 5 u32 match u32 0 0"
        run(f"tc -n {wire.near} filter add dev {wire.device} {foreign}")
    before = listing(wire)
    kill(consumer(wire.device, wire.near, hook))
    if mode == "xdp":
        with Tap(wire.device, TapSettings(hook=hook, mode=mode), wire.near, keep=True) as opened:
            opened.start()
    assert status.detach(wire.device, wire.near)
    assert listing(wire) == before


@NEEDS_TCX
def test_a_foreign_tcx_program_stays_in_its_place(wire: Wire) -> None:
    with bench("libbpf") as others:
        with netns.enter(wire.near):
            foreign = bpf.link_create(
                others.loaded.programs["tc_canary"], 2, bpf.ATTACH_TCX_INGRESS
            )
        try:
            with Tap(wire.device, netns=wire.near) as opened, wire.raw() as sender:
                opened.start()
                before = canary.read(others.loaded)["CANARY_LOST"]
                sender.send(Traffic.FRAME)
                assert canary.read(others.loaded)["CANARY_LOST"] > before
            with wire.raw() as sender:
                before = canary.read(others.loaded)["CANARY_LOST"]
                sender.send(Traffic.FRAME)
                assert canary.read(others.loaded)["CANARY_LOST"] > before
        finally:
            os.close(foreign)
    assert wire.leftovers() == []
