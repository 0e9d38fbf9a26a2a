"""The service: what systemd is told, the watchdog, and what a reload changes."""

import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import Running
from kernel_fixtures import Wire
from waiting import until, waits_of

from etcpipe import service
from etcpipe.cli import stopper as stopper_module
from etcpipe.cli.service import ctrl_c_ends, default_output
from etcpipe.cli.stopper import Stopper
from etcpipe.kernel import filters


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A service manager's socket that NOTIFY_SOCKET names."""
    with Manager(tmp_path / "notify") as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", str(listening.path))
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield listening


class Manager:
    """Receives what a service tells."""

    def __init__(self, path: Path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.messages: list[dict[str, str]] = []

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self) -> list[dict[str, str]]:
        """Return all messages until now, each as its lines by name."""
        while True:
            try:
                text = self._socket.recv(4096, socket.MSG_DONTWAIT).decode()
            except BlockingIOError:
                return self.messages
            self.messages.append(dict(line.split("=", 1) for line in text.splitlines()))

    def count(self, name: str) -> int:
        """Return how many messages until now had a line of that name."""
        return sum(name in message for message in self.heard())


def test_ready_says_who_and_what(manager):
    with service.notifier() as notifier:
        notifier.ready("eth0: attached")
    assert manager.heard() == [
        {"READY": "1", "STATUS": "eth0: attached", "MAINPID": str(os.getpid())}
    ]


def test_an_abstract_socket_is_found(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0etcpipe-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@etcpipe-test-{os.getpid()}")
        with service.notifier() as notifier:
            notifier.stopping()
        assert listening.recv(100, socket.MSG_DONTWAIT) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "relative/path"])
def test_without_a_manager_nothing_is_told(address, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert service.notifier() is None


def test_a_manager_that_is_gone_or_hangs_stops_nothing(manager):
    with service.notifier() as notifier:
        many = range(2000)  # more than the socket's queue holds
        assert waits_of(lambda: [notifier.ready("x" * 1000) for _ in many]) < 10
        manager.path.unlink()
        notifier.ready("gone")


def test_the_watchdog_is_fed_twice_in_its_time(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(service, "monotonic", lambda: clock.now_s)
    with service.notifier() as notifier:
        for ms in range(0, 1000, 2):
            clock.now_s = ms / 1000
            notifier.alive()
    assert manager.count("WATCHDOG") == 5


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "100", "WATCHDOG_PID": "1"}]
)
def test_a_watchdog_that_is_not_ours_is_left_alone(manager, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with service.notifier() as notifier:
        notifier.alive()
    assert manager.heard() == []


def test_verdicts_of_a_service_have_a_file_in_its_log_folder(manager, monkeypatch):
    monkeypatch.setenv("LOGS_DIRECTORY", "/var/log/etcpipe:/var/log/other")
    assert default_output("eth0") == ("/var/log/etcpipe/eth0.jsonl",)
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert default_output("eth0") == ()


@pytest.mark.parametrize(
    ("unit", "terminal", "hint"),
    [
        (False, True, "; Ctrl-C ends"),
        (False, False, "; Ctrl-C ends"),  # 2>log: the terminal is there all the same
        (True, True, "; Ctrl-C ends"),  # a shell of a desktop that is a unit
        (True, False, ""),
    ],
)
def test_a_service_is_told_of_no_ctrl_c(unit, terminal, hint, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    if unit:
        monkeypatch.setenv("INVOCATION_ID", "0" * 32)
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal))
    assert ctrl_c_ends("; ") == hint


def lose(call) -> None:
    """Call as Python does at the end of an import: what is raised is dropped."""
    with pytest.raises(KeyboardInterrupt):
        call()


def test_an_interrupt_that_was_lost_ends_the_run_when_it_begins(monkeypatch):
    monkeypatch.setattr(stopper_module, "_came", [])
    stopped = []
    with Stopper() as stopper:
        lose(lambda: signal.raise_signal(signal.SIGINT))
        stopper.stops(lambda: stopped.append(1))
    assert stopped == [1]
    lose(lambda: stopper_module.interrupt(signal.SIGINT, None))
    with pytest.raises(KeyboardInterrupt):
        Stopper().__enter__()


def test_a_hang_up_ends_nothing_once_it_means_reload():
    hung_up, stopped = [], []
    with Stopper() as stopper:
        stopper.stops(lambda: stopped.append(1))
        stopper.hangs_up(lambda: hung_up.append(1))
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
        assert (hung_up, stopped) == ([1, 1, 1], [])
        signal.raise_signal(signal.SIGTERM)
        assert stopped == [1]


POLICY = """
[[rule]]
class = "*"
min_probability = {minimum}
action = {{mark = "0x20/0xff"}}
"""


@pytest.fixture
def served(wire: Wire, manager, tmp_path, monkeypatch):
    """An attach under the manager, with a configuration folder, that is ready."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (tmp_path / "log").mkdir()
    (folder / "policy.toml").write_text(POLICY.format(minimum=0.5))
    _configure(folder, wire.device, filter="udp", policy=str(folder / "policy.toml"))
    monkeypatch.setenv("ETCPIPE_CONFIG", str(folder))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("LOGS_DIRECTORY", str(tmp_path / "log"))
    with Running("-n", wire.near, "attach", wire.device, folder=tmp_path) as etcpipe:
        etcpipe.until(lambda: manager.count("READY") == 1)
        yield etcpipe, folder


def _configure(folder: Path, device: str, **settings: object) -> None:
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    (folder / "etcpipe.toml").write_text("\n".join([f"[device.{device}]", *lines, ""]))


@pytest.mark.root
def test_a_service_is_ready_alive_and_stopping(served, manager, wire, tmp_path):
    etcpipe, _ = served
    ready = next(message for message in manager.messages if "READY" in message)
    assert f"{wire.device}: attached" in ready["STATUS"]
    assert ready["MAINPID"] == str(etcpipe.process.pid)
    assert "Ctrl-C" not in etcpipe.stderr
    etcpipe.until(lambda: manager.count("WATCHDOG") >= 2)
    assert etcpipe.signalled(signal.SIGTERM) == 0
    assert manager.count("STOPPING") == 1
    assert (tmp_path / "log" / f"{wire.device}.jsonl").exists()
    assert wire.leftovers() == []


def is_stopped(pid: int) -> bool:
    """Return whether SIGSTOP has reached all threads of a process."""
    states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state.rpartition(")")[2].split()[0] == "T" for state in states)


@pytest.mark.root
def test_a_frozen_service_does_not_feed_its_watchdog(served, manager):
    etcpipe, _ = served
    etcpipe.until(lambda: manager.count("WATCHDOG") >= 1)
    etcpipe.process.send_signal(signal.SIGSTOP)
    until(lambda: is_stopped(etcpipe.process.pid))
    before = manager.count("WATCHDOG")
    time.sleep(2.2)
    assert manager.count("WATCHDOG") == before
    etcpipe.process.send_signal(signal.SIGCONT)
    etcpipe.until(lambda: manager.count("WATCHDOG") > before)


@pytest.mark.root
def test_reload_changes_filter_and_policy_and_names_the_rest(served, manager, wire):
    etcpipe, folder = served
    policy = folder / "policy.toml"
    policy.write_text(POLICY.format(minimum=0.9))
    _configure(folder, wire.device, filter="tcp", policy=str(policy), first=4, queues=2)
    etcpipe.process.send_signal(signal.SIGHUP)
    etcpipe.until(lambda: "reloaded" in etcpipe.stderr)
    line = next(line for line in etcpipe.stderr.splitlines() if "reloaded" in line)
    assert line == (
        f"{wire.device}: reloaded: policy, filter; only a restart changes: first, queues"
    )
    etcpipe.until(lambda: manager.count("READY") == 2)
    assert manager.count("RELOADING") == 1
    assert filters.current(wire.device, wire.near) == "tcp"


@pytest.mark.root
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filter": "tcp and"}, "filter"),
        ({"fliter": "tcp"}, "fliter: no such option; did you mean filter?"),
        ({"policy": "/nonexistent.toml", "filter": "tcp"}, "policy /nonexistent.toml: No such"),
    ],
)
def test_a_reload_with_a_fault_changes_nothing(served, wire, settings, message):
    etcpipe, folder = served
    _configure(folder, wire.device, **settings)
    etcpipe.process.send_signal(signal.SIGHUP)
    etcpipe.until(lambda: "not reloaded" in etcpipe.stderr)
    line = next(line for line in etcpipe.stderr.splitlines() if "not reloaded" in line)
    assert line.startswith(f"{wire.device}: not reloaded, all goes on as before: ")
    assert message in line
    assert etcpipe.process.poll() is None
    assert filters.current(wire.device, wire.near) == "udp"
