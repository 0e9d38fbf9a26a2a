"""etcpipe attach, show, monitor and detach as users run them, on a pair of namespaces."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import captures
import jsonschema
import pytest
from command import ETCPIPE, INTERRUPTED, ROOT, TIMEOUT_S, Running, fails, run
from kernel_fixtures import Wire, wire
from kernel_fixtures import run as shell
from xsk_redirect import Redirect

from etcpipe.capture import Capture
from etcpipe.kernel import netns

pytestmark = pytest.mark.root

SCHEMA = json.loads((files("etcpipe") / "schema" / "verdict.schema.json").read_text())
FIRST_N = 10
# Root without the right to lock memory beyond the limit.
LOCK_LIMITED = ("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock")


def send_flows(wire: Wire, n: int, first_port: int = 20000) -> None:
    """Send whole flows of UDP, as many packets each as the model wants."""
    with wire.raw() as sender:
        for port in range(first_port, first_port + n):
            packet = captures.udp(100, src="10.77.0.2", dst="10.77.0.1", sport=port, dport=4433)
            for _ in range(FIRST_N):
                sender.send(captures.ether(packet))


def attached(
    wire: Wire, folder: Path, *options: str, json_lines: bool = True, command=ETCPIPE
) -> Running:
    """Start etcpipe attach on the near end."""
    arguments = [*(["-j"] if json_lines else []), "-n", wire.near, "attach", wire.device, *options]
    return Running(*arguments, folder=folder, command=command)


def test_verdict_lines_come_while_traffic_flows(wire, tmp_path):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    # looks at FIRST_N, where the default goes on to 50 of flows that it is not sure of
    with attached(wire, tmp_path, "-m", "traffic_moe") as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 3)
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 3)
        assert etcpipe.signalled(signal.SIGINT) == 0
    events = [json.loads(line) for line in etcpipe.stdout.splitlines()]
    ours = [event for event in events if event["dest_port"] == 4433]
    for event in events:
        validator.validate(event)
    assert {(e["src_ip"], e["src_port"]) for e in ours} == {
        ("10.77.0.2", port) for port in (20000, 20001, 20002)
    }
    for event in ours:
        assert event["in_iface"] == wire.device
        assert event["etcpipe"]["packets_used"] == FIRST_N
        assert event["flow"]["reason"] == "depth"
        assert abs(time.time() - _unix(event["timestamp"])) < 60
    assert wire.leftovers() == []


@pytest.mark.parametrize(
    "options", [("--capture", "ringbuf"), ("--queues", "3")], ids=["ring buffer", "three queues"]
)
def test_packets_come_by_the_way_that_is_asked_for(wire, tmp_path, options):
    with attached(wire, tmp_path, *options) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 9)
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 9)
        assert etcpipe.signalled(signal.SIGINT) == 0
    events = [json.loads(line) for line in etcpipe.stdout.splitlines()]
    ours = [event for event in events if event["dest_port"] == 4433]
    assert {e["src_port"] for e in ours} == set(range(20000, 20009))
    assert {e["etcpipe"]["packets_used"] for e in ours} == {FIRST_N}
    assert wire.leftovers() == []


def test_packets_of_unknown_flows_are_saved(wire, tmp_path):
    ring = tmp_path / "unknown"
    with attached(wire, tmp_path, "--save-unknown", str(ring)) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 3)
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 3)
        assert etcpipe.signalled(signal.SIGINT) == 0
    events = [json.loads(line) for line in etcpipe.stdout.splitlines()]
    nameless = [e["src_port"] for e in events if e["etcpipe"]["label"] == "unknown"]
    assert len(nameless) == 3 and "unknown saved          3\n" in etcpipe.stderr
    saved = [
        (int.from_bytes(batch.frame(i)[34:36].tobytes(), "big"), int(batch.timestamp_ns[i]))
        for batch in Capture(sorted(ring.iterdir()), 64)
        for i in range(len(batch))
    ]
    assert sorted(port for port, _ in saved) == sorted(nameless * FIRST_N)
    assert all(abs(time.time() - at / 1e9) < 60 for _, at in saved)


def test_a_ring_buffer_has_one_queue(wire):
    line = fails(
        *("-n", wire.near, "attach", wire.device, "--capture", "ringbuf", "--queues", "2"), status=2
    )
    assert "a ring buffer has one" in line


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_with_a_summary_and_leaves_nothing(wire, tmp_path, number):
    with attached(wire, tmp_path, json_lines=False) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 2)
        etcpipe.until(lambda: etcpipe.stdout.count(":4433") == 2)
        assert etcpipe.signalled(number) == 0
    rows, classes, packets, total = etcpipe.stdout.split("\n\n")
    assert rows.split()[0] == "time"
    assert classes.split()[:2] == ["class", "flows"]
    assert packets.startswith("packets by reason")
    assert total.endswith("lost: none\n")
    assert wire.leftovers() == []


@pytest.mark.parametrize("delay_s", [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0])
def test_interrupt_at_any_moment_leaves_nothing(wire, tmp_path, delay_s):
    command = [sys.executable, "-c", INTERRUPTED, str(delay_s)]
    with attached(wire, tmp_path, command=command) as etcpipe:
        status = etcpipe.process.wait(TIMEOUT_S)
    assert status in (0, 130, -signal.SIGINT)  # the last one while modules load
    assert "Traceback" not in etcpipe.stderr
    assert wire.leftovers() == []


def test_count_ends_after_so_many_verdicts(wire, tmp_path):
    output = tmp_path / "flows.csv"
    with attached(wire, tmp_path, "--count", "2", "-o", str(output)) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 5)
        assert etcpipe.process.wait(30) == 0
    assert etcpipe.stdout.count("\n") == 2
    assert len(list(csv.DictReader(output.read_text().splitlines()))) == 2
    assert wire.leftovers() == []


def test_duration_ends_it(wire, tmp_path):
    with attached(wire, tmp_path, "--duration", "0.5", json_lines=False) as etcpipe:
        assert etcpipe.process.wait(30) == 0
    assert "packets by reason" in etcpipe.stdout
    assert wire.leftovers() == []


def test_show_and_detach(wire, tmp_path):
    with attached(wire, tmp_path) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 1)
        etcpipe.until(lambda: "4433" in etcpipe.stdout)
        (tap,) = json.loads(run("-j", "-n", wire.near, "show", wire.device, check=0).stdout)
        assert (tap["device"], tap["netns"]) == (wire.device, netns.inode(wire.near))
        assert tap["pid"] == etcpipe.process.pid
        assert tap["counters"]["PACKETS_FIRST_N"] >= FIRST_N
        table = run("-s", "-n", wire.near, "show", check=0).stdout
        assert table.splitlines()[1].split()[:3] == [wire.device, wire.near, tap["mode"]]
        assert "among the first N" in table
        assert etcpipe.signalled(signal.SIGINT) == 0
    assert run("-j", "-n", wire.near, "show", check=0).stdout == "[]\n"


def test_monitor_shows_what_moved(wire, tmp_path):
    with attached(wire, tmp_path) as etcpipe:
        etcpipe.until_attached()
        options = ("monitor", wire.device, "--interval", "1", "--count", "1")
        began = time.monotonic()
        with Running("-j", "-n", wire.near, *options, folder=_folder(tmp_path)) as monitor:
            while monitor.process.poll() is None:
                send_flows(wire, 1)
                time.sleep(0.1)
        assert monitor.process.returncode == 0
        moved = json.loads(monitor.stdout)
        assert moved["device"] == wire.device
        assert moved["counters"]["PACKETS_SEEN"] > 0
        assert 1 <= moved["seconds"] <= time.monotonic() - began  # on any machine
        assert etcpipe.signalled(signal.SIGINT) == 0


def _folder(parent: Path) -> Path:
    folder = parent / "second"
    folder.mkdir()
    return folder


def test_second_attach_names_the_first(wire, tmp_path):
    with attached(wire, tmp_path) as etcpipe:
        etcpipe.until_attached()
        line = fails("-j", "-n", wire.near, "attach", wire.device, status=1)
        assert line.startswith(f"{wire.device}: already attached by pid {etcpipe.process.pid}")
        send_flows(wire, 1)  # the first one goes on
        etcpipe.until(lambda: "4433" in etcpipe.stdout)
        assert etcpipe.signalled(signal.SIGINT) == 0
    assert wire.leftovers() == []


def test_attach_after_kill_takes_over(wire, tmp_path):
    with attached(wire, tmp_path) as etcpipe:
        etcpipe.until_attached()
        assert etcpipe.signalled(signal.SIGKILL) == -signal.SIGKILL
    with attached(wire, _folder(tmp_path)) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 1)
        etcpipe.until(lambda: "4433" in etcpipe.stdout)
        assert etcpipe.signalled(signal.SIGINT) == 0
    assert wire.leftovers() == []


def test_detach_cleans_after_kill(wire, tmp_path):
    with attached(wire, tmp_path) as etcpipe:
        etcpipe.until_attached()
        etcpipe.signalled(signal.SIGKILL)
    assert wire.leftovers() != []
    run("-n", wire.near, "detach", wire.device, check=0)
    assert wire.leftovers() == []


def test_device_that_goes_away(wire, tmp_path):
    with attached(wire, tmp_path, json_lines=False) as etcpipe:
        etcpipe.until_attached()
        shell(f"ip -n {wire.near} link del {wire.device}")
        assert etcpipe.process.wait(30) == 1
    assert (
        etcpipe.stderr.splitlines()[-1] == f"etcpipe: {wire.device}: the device is gone; detached"
    )
    assert "packets by reason" in etcpipe.stdout
    assert wire.leftovers() == []


def test_foreign_xdp_program_stays(wire, tmp_path):
    with netns.enter(wire.near):
        import socket

        foreign = Redirect(socket.if_nametoindex(wire.device))
    with foreign:
        line = fails("-n", wire.near, "attach", wire.device, "--mode", "xdp", status=5)
        assert "another XDP program" in line
        assert "xdp" in shell(f"ip -n {wire.near} link show {wire.device}")
    assert wire.leftovers() == []


def test_memory_limit_is_named(wire):
    limited = ("prlimit", "--memlock=65536", *LOCK_LIMITED)
    line = fails("-n", wire.near, "attach", wire.device, status=4, wrapper=limited)
    assert "memlock" in line.lower()
    assert wire.leftovers() == []


def test_output_of_an_earlier_run_survives_a_mistyped_device(wire, tmp_path):
    earlier = tmp_path / "flows.csv"
    earlier.write_text("precious")
    fails("-n", wire.near, "attach", "nodev0", "-o", earlier, status=1)
    assert earlier.read_text() == "precious"


def test_output_that_cannot_be_opened_detaches(wire, tmp_path):
    target = tmp_path / "none" / "flows.csv"
    done = run("-n", wire.near, "attach", wire.device, "-o", target, check=1)
    expected = f"etcpipe: cannot write {target}: No such file or directory"
    assert done.stderr.splitlines()[-1] == expected
    assert wire.leftovers() == []


def test_first_line_says_what_runs_the_model(wire, tmp_path):
    with attached(wire, tmp_path) as etcpipe:
        etcpipe.until_attached()
        assert etcpipe.signalled(signal.SIGINT) == 0
    first = etcpipe.stderr.splitlines()[0]
    assert re.search(r", model \S+ by trees in C, CPU; Ctrl-C ends$", first)


def test_reader_that_left_ends_it_quietly(wire):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [*ETCPIPE, "-j", "-n", wire.near, "attach", wire.device],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    os.close(writer)
    assert ": attached, " in process.stderr.readline()
    send_flows(wire, 1)
    assert process.wait(30) == 1
    assert process.stderr.read() == ""
    process.stderr.close()
    assert wire.leftovers() == []


def test_full_disk_while_attached(wire, tmp_path):
    target = tmp_path / "flows.jsonl"
    target.symlink_to("/dev/full")
    with attached(wire, tmp_path, "-o", str(target)) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 1)
        etcpipe.until(lambda: str(target) in etcpipe.stderr)
        send_flows(wire, 1, first_port=30000)  # verdicts go on
        etcpipe.until(lambda: "30000" in etcpipe.stdout)
        assert etcpipe.signalled(signal.SIGINT) == 3
    failed = f"{target}: No space left on device; trying again, verdicts wait or are dropped"
    assert etcpipe.stderr.count(str(target)) == 2
    assert failed in etcpipe.stderr.splitlines()
    assert re.search(rf"etcpipe: warning: {target}: [2-9] events were dropped$", etcpipe.stderr)
    assert wire.leftovers() == []


@pytest.mark.parametrize("options", [["--first", "65"], ["--first", "1"], ["--wait", "0"]])
def test_setting_out_of_range(wire, options):
    fails("-n", wire.near, "attach", wire.device, *options, status=2)
    assert wire.leftovers() == []


def test_doctor_on_a_device(wire):
    done = run("-j", "-n", wire.near, "doctor", wire.device)
    by_name = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert by_name["driver"]["text"].startswith("veth: native XDP")
    assert by_name["xdp"]["text"] == "free"


def test_doctor_inside_a_namespace_does_not_ask_root_to_be_root(wire):
    done = run("-j", "doctor", wrapper=["nsenter", f"--net=/run/netns/{wire.near}"])
    (jit,) = (finding for finding in json.loads(done.stdout) if finding["check"] == "jit")
    assert jit["text"] == "not shown in this network namespace"  # Linux has it in the first one
