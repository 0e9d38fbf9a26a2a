"""The tap comes and goes: errors, interrupts, crashes, other people's programs."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from time import sleep

import captures
import numpy as np
import pytest
from kernel_fixtures import Wire, run, wire  # noqa: F401  wire is a fixture

from etcpipe.errors import (
    DataplaneError,
    UnsupportedError,
    UsageError,
)
from etcpipe.kernel import bpf, canary, checks, journal, netns, status, tap
from etcpipe.kernel.tap import Tap, TapSettings
from etcpipe.layout import FLOW_KEY

pytestmark = pytest.mark.root

HOOKS = pytest.mark.parametrize("hook", ["tcx", "clsact"])
UDP = captures.ether(captures.udp(b"x" * 40))

# A consumer in a process of its own: says "ready" and waits to be killed.
CONSUMER = """
import sys, time
from etcpipe.kernel.tap import Tap, TapSettings
with Tap(sys.argv[1], TapSettings(hook=sys.argv[3]), netns=sys.argv[2]) as tap:
    if sys.argv[4] == "start":
        tap.start()
    print("ready", flush=True)
    time.sleep(30)
"""


def consumer(wire: Wire, hook: str = "auto", upto: str = "start") -> subprocess.Popen:  # noqa: F811
    """Start a consumer and return when it is set up."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, wire.device, wire.near, hook, upto],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout
    process.stdout.close()


def flows(opened: Tap) -> int:
    return tap.show(opened.device, opened.netns)[0]["flows"]


@HOOKS
@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_a_tap_leaves_nothing_behind(wire: Wire, hook: str, mode: str) -> None:  # noqa: F811
    with Tap(wire.device, TapSettings(hook=hook, mode=mode), netns=wire.near) as opened:
        opened.start()
        assert opened.mode == mode
        assert opened.alive()
        assert len(wire.leftovers()) >= 3

    assert wire.leftovers() == []
    assert not opened.alive()


def test_the_device_is_untouched_until_start(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near), wire.raw() as sender:
        sender.send(UDP)
        assert tap.show(wire.device, wire.near)[0]["flows"] == 0
        assert "clsact" not in run(f"tc -n {wire.near} qdisc show dev {wire.device}")


def test_auto_takes_tc_on_veth_and_says_why(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        assert opened.mode == "tc"
        assert "veth" in opened.mode_reason
        assert opened.loader == "libbpf"


@HOOKS
def test_a_tap_is_shown(wire: Wire, hook: str) -> None:  # noqa: F811
    assert tap.show(wire.device, wire.near) == []
    with Tap(wire.device, TapSettings(hook=hook, first_n=7), netns=wire.near) as opened:
        opened.start()
        with wire.raw() as sender:
            sender.send(UDP)
        (shown,) = tap.show(wire.device, wire.near)

    assert (shown["device"], shown["ifindex"], shown["first_n"]) == (wire.device, 2, 7)
    assert (shown["mode"], shown["hook"], shown["pid"]) == ("tc", hook, os.getpid())
    assert shown["counters"]["PACKETS_FIRST_N"] >= 1
    assert shown["counters"]["MIRROR_DROPPED"] == 0
    assert shown["flows"] >= 1


def test_the_mirror_is_silent(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        sleep(0.3)  # router solicitations and reports would come by now
        assert opened.counters()["PACKETS_FOREIGN"] == 0


def test_verdicts_are_shared_with_the_kernel(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.device, TapSettings(slots=1024), netns=wire.near) as opened:
        opened.verdicts[[5, 1023]] = [77 << 16 | 3, 88 << 16 | 4]

        path = next(Path("/sys/fs/bpf/etcpipe").glob(f"{netns.inode(wire.near)}/*/map_verdicts"))
        fd = bpf.pinned(path)
        values = np.zeros(3, np.uint64)
        bpf.lookup(fd, np.array([5, 6, 1023], np.uint32), values)
        os.close(fd)
        assert values.tolist() == [77 << 16 | 3, 0, 88 << 16 | 4]
        assert opened.verdicts.shape == (1024,)


def test_unknown_flows_have_empty_records(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.device, netns=wire.near) as opened:
        assert opened.records(np.zeros(3, FLOW_KEY))["flow_id"].tolist() == [0, 0, 0]


def test_a_device_that_is_down_can_be_tapped(wire: Wire) -> None:  # noqa: F811
    run(f"ip -n {wire.near} link set {wire.device} down")
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        run(f"ip -n {wire.near} link set {wire.device} up")
        with wire.raw() as sender:
            sender.send(UDP)
        assert opened.counters()["PACKETS_SEEN"] >= 1


def test_a_dot_in_the_name(wire: Wire) -> None:  # noqa: F811
    run(f"ip -n {wire.near} link set {wire.device} name eth0.100")
    with Tap("eth0.100", netns=wire.near) as opened:
        opened.start()
        assert tap.show("eth0.100", wire.near)[0]["device"] == "eth0.100"
    assert wire.leftovers() == []


def test_loopback_counts_each_packet_once(wire: Wire) -> None:  # noqa: F811
    run(f"ip -n {wire.near} link set lo up")
    with Tap("lo", netns=wire.near) as opened:
        opened.start()
        with netns.enter(wire.near), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", 9))
            sender.send(b"x" * 40)
        counted = opened.counters()
    # the datagram, and the answer that nobody listens
    assert (counted["PACKETS_FIRST_N"], counted["PACKETS_SEEN"]) == (1, 2)


# --- refusals -----------------------------------------------------------------------------


def test_no_such_device(wire: Wire) -> None:  # noqa: F811
    with pytest.raises(DataplaneError, match="no device nosuch0"), Tap("nosuch0", netns=wire.near):
        pass
    assert wire.leftovers() == []


def test_no_such_namespace() -> None:
    with pytest.raises(UsageError, match="no network namespace nosuch"), Tap("lo", netns="nosuch"):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_n": 0}, "first_n is 0, must be 1 to 64"),
        ({"first_n": 65}, "first_n is 65, must be 1 to 64"),
        ({"snap_len": 5000}, "snap_len is 5000, must be 128 to 3072"),
        ({"mode": "ebpf"}, "mode is 'ebpf', must be one of auto, tc, xdp"),
        ({"count": "some"}, "count is 'some'"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TapSettings(**settings)


def test_another_consumer_is_refused_by_its_pid(wire: Wire) -> None:  # noqa: F811
    other = consumer(wire)
    try:
        message = rf"{wire.device}: already attached by pid {other.pid};.* etcpipe detach"
        with pytest.raises(DataplaneError, match=message), Tap(wire.device, netns=wire.near):
            pass
        assert tap.show(wire.device, wire.near)[0]["pid"] == other.pid
    finally:
        kill(other)
        tap.detach(wire.device, wire.near)
    assert wire.leftovers() == []


def test_xdp_mode_needs_the_driver(wire: Wire) -> None:  # noqa: F811
    run(f"ip -n {wire.near} link add br0 type bridge")
    settings = TapSettings(mode="xdp")
    with pytest.raises(UnsupportedError, match="br0: the driver has no native XDP: use --mode tc"):
        with Tap("br0", settings, netns=wire.near) as opened:
            opened.start()
    with Tap("br0", netns=wire.near) as opened:
        opened.start()
        assert (opened.mode, opened.mode_reason) == ("tc", "br0: the driver has no native XDP")
    assert wire.leftovers() == []


def test_another_xdp_program_stays_and_is_named(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.peer, TapSettings(mode="xdp"), netns=wire.far) as other:
        other.start()  # somebody's XDP program, as far as the next tap can tell
        pin = next(Path("/sys/fs/bpf/etcpipe").glob(f"{netns.inode(wire.far)}/*/prog_xdp_track"))
        fd = bpf.pinned(pin)
        with netns.enter(wire.near):
            link = bpf.link_create(fd, 2, bpf.ATTACH_XDP)
        program = bpf.program_info(fd)[0]
        try:
            message = rf"tap0 has another XDP program \(id {program} xdp_track\)"
            with pytest.raises(UnsupportedError, match=message):
                with Tap(wire.device, TapSettings(mode="xdp"), netns=wire.near) as opened:
                    opened.start()
            assert f"id {program}" in run(f"ip -n {wire.near} link show {wire.device}")
        finally:
            os.close(link)
            os.close(fd)
    assert wire.leftovers() == []


def test_foreign_filters_stay(wire: Wire) -> None:  # noqa: F811
    run(f"tc -n {wire.near} qdisc add dev {wire.device} clsact")
    foreign = "protocol all prio 5 u32 match u32 0 0"
    run(f"tc -n {wire.near} filter add dev {wire.device} ingress {foreign}")
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near) as opened:
        opened.start()
        shown = run(f"tc -n {wire.near} filter show dev {wire.device} ingress")
        assert "pref 5 u32" in shown and "etcpipe/tc_track" in shown

    shown = run(f"tc -n {wire.near} filter show dev {wire.device} ingress")
    assert "pref 5 u32" in shown and "etcpipe" not in shown


def test_a_clsact_that_somebody_uses_by_now_stays(wire: Wire) -> None:  # noqa: F811
    foreign = "protocol all prio 5 u32 match u32 0 0"
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near) as opened:
        opened.start()
        run(f"tc -n {wire.near} filter add dev {wire.device} egress {foreign}")

    assert "pref 5 u32" in run(f"tc -n {wire.near} filter show dev {wire.device} egress")
    assert "etcpipe" not in run(f"tc -n {wire.near} filter show dev {wire.device} ingress")


def python(code: str, *prefix: str) -> str:
    """Run code in a process of its own; returns the last line of what it said."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        timeout=60,
    )
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_an_ordinary_user_is_told_what_is_missing() -> None:
    code = (
        "import os, sys\nfrom etcpipe.kernel.tap import Tap\nos.setuid(65534)\n"
        "try:\n    Tap('lo').__enter__()\nexcept Exception as e:\n"
        "    print(type(e).__name__, e.exit_code, e)"
    )
    assert python(code) == (
        "PermissionDeniedError 4 needs root, or CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF"
    )


def test_which_capabilities_suffice() -> None:
    assert checks.missing_capabilities(1 << 12 | 1 << 13 | 1 << 38 | 1 << 39) == []
    assert checks.missing_capabilities(1 << 12 | 1 << 13 | 1 << 21) == []
    assert checks.missing_capabilities(1 << 12) == ["CAP_NET_RAW", "CAP_PERFMON", "CAP_BPF"]


def test_no_bcc_is_said_in_a_line() -> None:
    code = (
        "import sys\nsys.modules['bcc'] = None\nfrom etcpipe.kernel.tap import Tap, TapSettings\n"
        "try:\n    Tap('lo', TapSettings(loader='bcc')).__enter__()\nexcept Exception as e:\n"
        "    print(e.exit_code, e)"
    )
    assert python(code, "unshare", "--net") == "5 bcc not found: apt install python3-bpfcc"


def test_no_libbpf_is_said_in_a_line() -> None:
    found = [line for line in run("ldconfig -p").splitlines() if "libbpf.so.1 " in line]
    library = Path(found[0].split("=> ")[1]).resolve()
    code = (
        "import subprocess\n"
        f"subprocess.run('mount --bind /dev/null {library}'.split(), check=True)\n"
        "from etcpipe.kernel.tap import Tap, TapSettings\n"
        "try:\n    Tap('lo', TapSettings(loader='libbpf')).__enter__()\nexcept Exception as e:\n"
        "    print(e.exit_code, e)"
    )
    assert python(code, "unshare", "--net", "--mount") == (
        "5 libbpf 1.x not found: apt install libbpf1, or use --loader bcc"
    )


# --- interrupts and crashes -----------------------------------------------------------------


@HOOKS
def test_an_interrupt_at_any_moment_leaves_nothing(wire: Wire, hook: str) -> None:  # noqa: F811
    interrupted = 0
    for delay in np.linspace(0.0, 0.25, 8):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            with Tap(wire.device, TapSettings(hook=hook), netns=wire.near) as opened:
                opened.start()
                sleep(2)
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        assert wire.leftovers() == []
    assert interrupted == 8


@HOOKS
def test_the_next_tap_adopts_what_a_killed_one_left(wire: Wire, hook: str) -> None:  # noqa: F811
    kill(consumer(wire, hook))
    with wire.raw() as sender:
        sender.send(UDP)  # traffic goes on, and is tracked, with nobody there
    assert tap.show(wire.device, wire.near)[0]["pid"] is None

    with Tap(wire.device, TapSettings(hook=hook), netns=wire.near) as opened:
        opened.start()
        assert opened.adopted
        before = flows(opened)
        with wire.raw() as sender:
            sender.send(captures.ether(captures.udp(b"x" * 40, sport=4)))
        assert (before >= 1, flows(opened)) == (True, before + 1)
    assert wire.leftovers() == []


@pytest.mark.parametrize(
    ("upto", "settings"), [("start", {"first_n": 3}), ("enter", {}), ("start", {"mode": "xdp"})]
)
def test_what_does_not_fit_is_removed_and_made_anew(
    wire: Wire,  # noqa: F811
    upto: str,
    settings: dict,
) -> None:
    kill(consumer(wire, "auto", upto))
    with Tap(wire.device, TapSettings(**settings), netns=wire.near) as opened:
        opened.start()
        assert not opened.adopted
        assert opened.alive()
    assert wire.leftovers() == []


def test_a_lost_filter_is_not_adopted(wire: Wire) -> None:  # noqa: F811
    kill(consumer(wire, "clsact"))
    run(f"tc -n {wire.near} filter del dev {wire.device} egress")
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near) as opened:
        opened.start()
        assert not opened.adopted
        assert "etcpipe/tc_track" in run(f"tc -n {wire.near} filter show dev {wire.device} egress")
    assert wire.leftovers() == []


def test_an_unreadable_journal_is_no_obstacle(wire: Wire) -> None:  # noqa: F811
    kill(consumer(wire, "clsact"))
    next(Path("/run/etcpipe").glob(f"{netns.inode(wire.near)}/*.json")).write_text("{ half")
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near) as opened:
        opened.start()
        assert opened.alive()
    # whether that clsact was ours nobody knows any more: it stays, empty
    assert wire.leftovers() == ["clsact"]


def test_a_kept_tap_goes_on_and_is_adopted(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.device, netns=wire.near, keep=True) as first:
        first.start()
    with wire.raw() as sender:
        sender.send(UDP)
    (shown,) = tap.show(wire.device, wire.near)
    assert (shown["pid"], shown["counters"]["PACKETS_NO_CONSUMER"] >= 1) == (None, True)

    with Tap(wire.device, netns=wire.near, keep=True) as second:
        second.start()
        assert second.adopted and second.mode == "tc"
    assert tap.detach(wire.device, wire.near)
    assert not tap.detach(wire.device, wire.near)
    assert wire.leftovers() == []


def test_detach_ends_a_living_tap(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.device, netns=wire.near) as opened:
        opened.start()
        assert tap.detach(wire.device, wire.near)
        assert not opened.alive()
    assert wire.leftovers() == []


@HOOKS
@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_the_device_goes_away_while_tapped(wire: Wire, hook: str, mode: str) -> None:  # noqa: F811
    with Tap(wire.device, TapSettings(hook=hook, mode=mode), netns=wire.near) as opened:
        opened.start()
        run(f"ip -n {wire.near} link del {wire.device}")
        assert not opened.alive()
        assert opened.counters()["PACKETS_SEEN"] >= 0
    assert wire.leftovers() == []


def test_the_namespace_goes_away_after_a_crash(wire: Wire) -> None:  # noqa: F811
    run("ip netns add etcpgone")
    inode = netns.inode("etcpgone")
    run("ip -n etcpgone link add gone0 type veth peer name gone1")
    process = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, "gone0", "etcpgone", "auto", "start"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    kill(process)
    run("ip netns del etcpgone")

    status.remove(next(state for state in journal.read_all() if state.netns_inode == inode))
    assert not list(Path("/run/etcpipe").glob(f"{inode}/*"))
    assert not list(Path("/sys/fs/bpf/etcpipe").glob(f"{inode}/*"))


# --- the canary ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "survives"),
    [
        ({"WRITTEN": 3, "SURVIVED": 3}, True),
        ({"WRITTEN": 3, "SURVIVED": 1, "LOST": 2}, True),  # the two were on their way before
        ({"WRITTEN": 3, "LOST": 3}, False),
        ({"REFUSED": 1, "LOST": 1}, False),
        ({"LOST": 3}, None),
        ({}, None),
    ],
)
def test_what_the_canary_proves(counts: dict[str, int], survives: bool | None) -> None:
    named = {
        f"CANARY_{name}": counts.get(name, 0) for name in ("WRITTEN", "REFUSED", "SURVIVED", "LOST")
    }
    assert canary.judge(named)[0] is survives


def test_a_canary_flies_through_veth(wire: Wire) -> None:  # noqa: F811
    with Tap(wire.device, TapSettings(mode="xdp"), netns=wire.near) as opened:
        opened.start()
        assert opened.mode_reason == "tap0: a canary packet's metadata reached TC"


def test_no_packet_no_proof(wire: Wire) -> None:  # noqa: F811
    run(f"ip -n {wire.far} link set {wire.peer} down")
    with Tap(wire.device, TapSettings(mode="xdp"), netns=wire.near) as opened:
        opened.start()
        assert opened.mode == "xdp"
        assert "no packet arrived" in opened.mode_reason
