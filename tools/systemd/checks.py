"""What etcpipe@DEVICE.service does under systemd; tools/systemd/test boots a machine to run it in.

Each check is a function whose name says what holds. It gets a device of its own, with traffic
on it, and looks at units, journal, files and links as an operator would.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

DEVICE, PEER, FAR = "svc0", "svc1", "far"
UNIT = f"etcpipe@{DEVICE}.service"
WEB = "etcpipe-web.service"
SETTINGS = Path("/etc/etcpipe/conf.d/device.toml")
DROP_IN = Path(f"/run/systemd/system/{UNIT}.d/test.conf")
VERDICTS = Path(f"/var/log/etcpipe/{DEVICE}.jsonl")
METRICS = "http://127.0.0.1:9618/metrics"
ADDRESS = "10.66.0.1"
KILLS = 5  # StartLimitBurst of the unit
BEGAN = [0.0]  # each check, seconds since 1970


def run(command: str, status: int | None = 0) -> str:
    """Run a command; return all that it printed."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert status is None or done.returncode == status, f"{command}: {done.returncode}: {said}"
    return said


def until(what: str, holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds, and fail if it does not come to that."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds} s for: {what}"
        time.sleep(0.1)


def unit(name: str, of: str = UNIT) -> str:
    """Return a property of a unit."""
    return run(f"systemctl show -P {name} {of}").strip()


def journal() -> str:
    """Return what the services, and systemd of them, said since the check began."""
    return run(f"journalctl -u {UNIT} -u {WEB} --since @{BEGAN[-1]:.6f} --no-pager")


def metrics() -> str:
    """Return what etcpipe-web.service answers; nothing where nobody listens."""
    with suppress(URLError), urlopen(METRICS, timeout=5) as answer:
        return answer.read().decode()
    return ""


def journal_has(text: str) -> None:
    """Wait for a line of the unit's journal."""
    until(f"the journal says {text!r}", lambda: text in journal())


def attached() -> bool:
    """Is the device one of those that `etcpipe show` names?"""
    return any(tap["device"] == DEVICE for tap in json.loads(run("etcpipe -j show")))


def leftovers() -> list[str]:
    """Return what is there that only a running attach has."""
    found = re.findall(r"etcm\w+", run("ip -o link"))
    found += [str(path) for path in Path("/sys/fs/bpf").glob("etcpipe/*/*")]
    found += [str(path) for path in Path("/run/etcpipe").glob("*/*") if path.is_file()]
    return found


def configure(**settings: object) -> None:
    """Write the device's settings."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    SETTINGS.write_text("\n".join([f"[device.{DEVICE}]", *lines, ""]))


def drop_in(*lines: str) -> None:
    """Change [Service] of the unit until the check ends."""
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text("\n".join(["[Service]", *lines, ""]))
    run("systemctl daemon-reload")


def add_device() -> None:
    """Make the device, its other end in a namespace, both with an address."""
    run(f"ip link add {DEVICE} type veth peer name {PEER} netns {FAR}")
    run(f"ip addr add {ADDRESS}/24 dev {DEVICE}")
    run(f"ip link set {DEVICE} up")
    run(f"ip -n {FAR} addr add 10.66.0.2/24 dev {PEER}")
    run(f"ip -n {FAR} link set {PEER} up")


@contextmanager
def device() -> Iterator[None]:
    """A device for a check, and after it no trace of device, unit or settings."""
    VERDICTS.unlink(missing_ok=True)
    BEGAN.append(time.time())
    run(f"ip netns add {FAR}")
    try:
        add_device()
        yield
    finally:
        run(f"systemctl stop {UNIT} {WEB}", None)
        run(f"systemctl disable -q {UNIT}", None)
        run(f"systemctl reset-failed {UNIT} {WEB}", None)
        if shutil.which("etcpipe"):  # the last check removes it
            run("etcpipe detach --all", None)
        run(f"ip link del {DEVICE}", None)
        run(f"ip netns del {FAR}", None)
        SETTINGS.unlink(missing_ok=True)
        DROP_IN.unlink(missing_ok=True)
        run("systemctl daemon-reload")


@contextmanager
def no_packet_lost() -> Iterator[None]:
    """Packets cross the device all the while, and each is answered."""
    command = f"ip netns exec {FAR} ping -q -i 0.05 {ADDRESS}".split()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ping:
        try:
            yield
        finally:
            ping.send_signal(signal.SIGINT)
            said = ping.communicate()[0]
    assert " 0% packet loss" in said, said


def talk() -> None:
    """Have a flow of a dozen packets with payload in the tap."""
    with socket.create_server((ADDRESS, 0)) as server:
        port = server.getsockname()[1]
        answer = threading.Thread(target=_answer, args=(server,))
        answer.start()
        script = (
            f"import socket; s = socket.create_connection(('{ADDRESS}', {port}))\n"
            "for size in range(100, 1300, 100): s.sendall(bytes(size)); s.recv(4096)"
        )
        done = ["ip", "netns", "exec", FAR, sys.executable, "-c", script]
        subprocess.run(done, check=True)
        answer.join()


def _answer(server: socket.socket) -> None:
    with server.accept()[0] as connection:
        while received := connection.recv(4096):
            connection.sendall(received[:50])


def start_returns_when_packets_are_awaited() -> None:
    run(f"systemctl start {UNIT}")
    assert attached()
    assert (unit("ActiveState"), unit("SubState")) == ("active", "running")
    assert f"{DEVICE}: attached" in unit("StatusText")
    assert unit("WatchdogUSec") == "30s"
    journal_has(f"{DEVICE}: attached")
    talk()
    until("a verdict in the log", lambda: VERDICTS.exists() and VERDICTS.read_text())
    assert json.loads(VERDICTS.read_text().splitlines()[0])["dest_ip"] == ADDRESS
    assert VERDICTS.stat().st_mode & 0o777 == 0o640
    assert "Ctrl-C" not in journal()  # nobody sits at it


def a_network_judges_within_the_limits_of_the_unit() -> None:
    configure(model="traffic_moe")
    run(f"systemctl start {UNIT}")
    journal_has("model traffic_moe by ONNX Runtime")
    talk()
    until("a verdict in the log", lambda: VERDICTS.exists() and VERDICTS.read_text())
    assert "traffic_moe" in VERDICTS.read_text()


def stop_leaves_nothing() -> None:
    run(f"systemctl start {UNIT}")
    assert leftovers()
    with no_packet_lost():
        run(f"systemctl stop {UNIT}")
    assert (unit("ActiveState"), unit("Result")) == ("inactive", "success")
    assert leftovers() == []


def reload_takes_a_filter_and_names_the_rest() -> None:
    configure(filter="udp")
    run(f"systemctl start {UNIT}")
    before = unit("MainPID")
    configure(filter="tcp", first=4)
    run(f"systemctl reload {UNIT}")
    journal_has(f"{DEVICE}: reloaded: filter; only a restart changes: first")
    configure(filter="tcp and")
    run(f"systemctl reload {UNIT}")
    journal_has(f"{DEVICE}: not reloaded, all goes on as before: ")
    until("it is active again", lambda: unit("ActiveState") == "active")
    assert (unit("MainPID"), unit("NRestarts")) == (before, "0")


def a_service_that_hangs_is_replaced() -> None:
    drop_in("WatchdogSec=4s")
    run(f"systemctl start {UNIT}")
    hung = unit("MainPID")
    with no_packet_lost():
        time.sleep(5)  # fed: longer than the watchdog waits
        assert unit("MainPID") == hung
        os.kill(int(hung), signal.SIGSTOP)
        until("another one", lambda: unit("MainPID") not in (hung, "0"))
        until("it is active", lambda: unit("ActiveState") == "active")
    assert unit("NRestarts") == "1"
    journal_has("Watchdog timeout")
    assert attached()


def it_goes_and_comes_with_its_device() -> None:
    run(f"systemctl enable -q {UNIT}")
    run(f"systemctl start {UNIT}")
    run(f"ip link del {DEVICE}")
    until("it has stopped", lambda: unit("ActiveState") in ("inactive", "failed"))
    assert unit("ActiveState") == "inactive", journal()
    assert leftovers() == []
    add_device()
    until("it is active", lambda: unit("ActiveState") == "active")
    assert attached()


def wrong_settings_are_tried_once() -> None:
    configure(fliter="tcp")
    run(f"systemctl start {UNIT}", 1)
    assert (unit("ActiveState"), unit("ExecMainStatus"), unit("NRestarts")) == ("failed", "2", "0")
    journal_has("fliter: no such option; did you mean filter?")
    assert leftovers() == []


def what_is_killed_again_and_again_is_given_up() -> None:
    drop_in("RestartSec=100ms")
    run(f"systemctl start {UNIT}")
    with no_packet_lost():
        for _ in range(KILLS):
            until("it is active", lambda: unit("ActiveState") == "active")
            killed = unit("MainPID")
            os.kill(int(killed), signal.SIGKILL)
            until("it is gone", lambda killed=killed: unit("MainPID") != killed)
        until("systemd gives up", lambda: unit("ActiveState") == "failed")
    journal_has("Start request repeated too quickly")
    run(f"systemctl reset-failed {UNIT}")
    run(f"systemctl start {UNIT}")  # what the killed ones left is taken over or removed
    run(f"systemctl stop {UNIT}")
    assert leftovers() == []


def logs_are_rotated_under_a_running_service() -> None:
    run(f"systemctl start {UNIT}")
    talk()
    until("a verdict in the log", lambda: VERDICTS.exists() and VERDICTS.read_text())
    run("logrotate -f /etc/logrotate.d/etcpipe")
    assert Path(f"{VERDICTS}.1").read_text()
    talk()
    until("a verdict in the new log", VERDICTS.read_text)
    assert unit("NRestarts") == "0"


def the_page_of_nobody_shows_what_attaches_say() -> None:
    assert unit("UnitFileState", WEB) == "disabled"  # only an administrator enables it
    run(f"systemctl start {UNIT} {WEB}")
    until("metrics of the device", lambda: f'dev="{DEVICE}"' in metrics())
    assert "Ctrl-C" not in journal()
    process = Path("/proc", unit("MainPID", WEB))
    assert process.stat().st_uid != 0
    assert "\nCapEff:\t0000000000000000\n" in (process / "status").read_text()
    run(f"systemctl stop {WEB}")
    assert unit("Result", WEB) == "success"
    assert attached()


def upgrade_restarts_the_page_alone() -> None:
    run(f"systemctl start {UNIT} {WEB}")
    tap, page = unit("MainPID"), unit("MainPID", WEB)
    with no_packet_lost():
        (package,) = Path("/root").glob("etcpipe_*.deb")
        run(f"dpkg -i {package}")
    assert unit("MainPID") == tap
    assert unit("MainPID", WEB) not in (page, "0")
    assert attached()


def removal_stops_and_detaches() -> None:
    run(f"systemctl start {UNIT} {WEB}")
    with no_packet_lost():
        run("apt-get -q -y remove etcpipe")
    assert (unit("ActiveState"), unit("ActiveState", WEB)) == ("inactive", "inactive")
    assert leftovers() == []


CHECKS = (
    start_returns_when_packets_are_awaited,
    a_network_judges_within_the_limits_of_the_unit,
    stop_leaves_nothing,
    reload_takes_a_filter_and_names_the_rest,
    a_service_that_hangs_is_replaced,
    it_goes_and_comes_with_its_device,
    wrong_settings_are_tried_once,
    what_is_killed_again_and_again_is_given_up,
    logs_are_rotated_under_a_running_service,
    the_page_of_nobody_shows_what_attaches_say,
    upgrade_restarts_the_page_alone,
    removal_stops_and_detaches,  # last: there is no etcpipe afterwards
)


def main(chosen: list[str]) -> int:
    """Run the checks that are named, or all; return 1 if one fails."""
    up = ("running", "degraded")
    until("systemd is up", lambda: run("systemctl is-system-running", None).strip() in up)
    print(run("systemctl --version").splitlines()[0], flush=True)
    failed = 0
    for check in CHECKS:
        if chosen and check.__name__ not in chosen:
            continue
        began = time.monotonic()
        try:
            with device():
                try:
                    check()
                except AssertionError:
                    print(journal())
                    raise
            said = "passed"
        except AssertionError as error:
            failed += 1
            said = f"FAILED: {error}"
        print(f"{check.__name__}: {said} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
