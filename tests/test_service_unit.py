"""The systemd unit: systemd understands it, it is closed enough, and attach works inside it."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import ETCPIPE, ROOT, Running

UNIT = ROOT / "debian" / "etcpipe@.service"
WEB = ROOT / "debian" / "etcpipe.etcpipe-web.service"
SANDBOX = [sys.executable, str(ROOT / "tests" / "sandbox.py"), str(UNIT)]
# of `systemd-analyze security`
EXPOSURE_MAX = 3.5
WEB_EXPOSURE_MAX = 1.5

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


def analyze(*args: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize(
    ("unit", "name"), [(UNIT, "etcpipe@eth0.service"), (WEB, "etcpipe-web.service")]
)
def test_systemd_finds_no_fault_in_the_unit(tmp_path, unit, name):
    instance = tmp_path / name
    instance.write_text(unit.read_text().replace("/usr/bin/etcpipe", "/bin/true"))
    assert analyze("verify", "--man=no", instance) == ""


@needs_systemd
@pytest.mark.parametrize(("unit", "most"), [(UNIT, EXPOSURE_MAX), (WEB, WEB_EXPOSURE_MAX)])
def test_the_unit_is_closed(unit, most):
    shown = analyze("security", "--offline=true", "--no-pager", unit)
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", shown)
    assert float(exposure[1]) <= most


def test_the_unit_runs_only_what_every_debian_has():
    commands = re.findall(r"^Exec\w+=(\S+)", UNIT.read_text(), re.MULTILINE)
    assert commands == ["/usr/bin/etcpipe", "/bin/sh"]  # not /bin/kill of procps


def test_capabilities_are_the_four_that_are_needed():
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert set(line.split()) == {"CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON"}


@pytest.fixture
def sandbox():
    pytest.importorskip("seccomp", reason="needs python3-seccomp")
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze")
    return SANDBOX


@pytest.mark.root
@pytest.mark.parametrize("refused", ["unshare --mount true", "ip netns add etcpsandbox"])
def test_the_sandbox_of_this_test_refuses_things(sandbox, refused):
    done = subprocess.run([*sandbox, *refused.split()], capture_output=True, check=False)
    assert done.returncode != 0


@pytest.mark.root
@pytest.mark.parametrize(
    "options",
    [("--mode", "tc", "--filter", "tcp"), ("--mode", "xdp"), ("--capture", "ringbuf")],
    ids=["tc", "xdp", "ring buffer"],
)
def test_attach_works_with_what_the_unit_allows(sandbox, wire, tmp_path, options):
    inside = ["nsenter", f"--net=/run/netns/{wire.near}", *sandbox, *ETCPIPE]
    command = ["attach", wire.device, *options]
    with Running(*command, folder=tmp_path, command=inside) as etcpipe:
        etcpipe.until_attached()
        assert etcpipe.signalled(signal.SIGTERM) == 0
    assert wire.leftovers() == []
