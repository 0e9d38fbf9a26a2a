"""What the tap refuses, in one line, with nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import captures
import pytest
from kernel_fixtures import Wire, consumer, kill, run

from etcpipe.errors import (
    DataplaneError,
    UnsupportedError,
    UsageError,
)
from etcpipe.kernel import bpf, checks, netns, status
from etcpipe.kernel.tap import Tap, TapSettings

pytestmark = pytest.mark.root

UDP = captures.ether(captures.udp(b"x" * 40))


def test_no_such_device(wire: Wire) -> None:
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


def test_another_consumer_is_refused_by_its_pid(wire: Wire) -> None:
    other = consumer(wire.device, wire.near)
    try:
        message = rf"{wire.device}: already attached by pid {other.pid};.* etcpipe detach"
        with pytest.raises(DataplaneError, match=message), Tap(wire.device, netns=wire.near):
            pass
        assert status.show(wire.device, wire.near)[0]["pid"] == other.pid
    finally:
        kill(other)
        status.detach(wire.device, wire.near)
    assert wire.leftovers() == []


def test_xdp_mode_needs_the_driver(wire: Wire) -> None:
    run(f"ip -n {wire.near} link add br0 type bridge")
    settings = TapSettings(mode="xdp")
    with pytest.raises(UnsupportedError, match="br0: the driver has no native XDP: use --mode tc"):
        with Tap("br0", settings, netns=wire.near) as opened:
            opened.start()
    with Tap("br0", netns=wire.near) as opened:
        opened.start()
        assert (opened.mode, opened.mode_reason) == ("tc", "br0: the driver has no native XDP")
    assert wire.leftovers() == []


def test_another_xdp_program_stays_and_is_named(wire: Wire) -> None:
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


def test_foreign_filters_stay(wire: Wire) -> None:
    run(f"tc -n {wire.near} qdisc add dev {wire.device} clsact")
    foreign = "protocol all prio 5 u32 match u32 0 0"
    run(f"tc -n {wire.near} filter add dev {wire.device} ingress {foreign}")
    with Tap(wire.device, TapSettings(hook="clsact"), netns=wire.near) as opened:
        opened.start()
        shown = run(f"tc -n {wire.near} filter show dev {wire.device} ingress")
        assert "pref 5 u32" in shown and "etcpipe/tc_track" in shown

    shown = run(f"tc -n {wire.near} filter show dev {wire.device} ingress")
    assert "pref 5 u32" in shown and "etcpipe" not in shown


def test_a_clsact_that_somebody_uses_by_now_stays(wire: Wire) -> None:
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
