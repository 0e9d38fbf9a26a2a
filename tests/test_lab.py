"""The lab for real: every kind runs, its flows are labelled, nothing of it stays."""

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pytest

from etcpipe.errors import LabError
from etcpipe.lab import KINDS, MARKER, Lab, label_of, missing, read_truth, record, remove_stale_labs
from etcpipe.lab.kinds import messages
from etcpipe.lab.trim import PACKET_HEADER, TCP, UDP, flow_of, read_file_header, records

pytestmark = [pytest.mark.root, pytest.mark.slow]

CHEAP = "dns_encrypted"


def frames_of(path: Path) -> list[tuple[int, bytes]]:
    """Return (length on the wire, frame) of every packet of a capture."""
    with path.open("rb") as file:
        read_file_header(file)
        return [(PACKET_HEADER.unpack(header)[3], frame) for header, frame in records(file)]


def flows_by_label(path: Path) -> Counter:
    """Return how many TCP and UDP flows each label has; None for flows of no server."""
    truth = read_truth(path.with_name("labels.csv"))[path.name]
    flows = {flow_of(frame)[0] for _, frame in frames_of(path)}
    counts: Counter = Counter()
    for protocol, *ends in flows:
        if protocol[0] in (TCP, UDP):
            first, second = (
                (str(ip_address(end[:-2])), int.from_bytes(end[-2:], "big")) for end in ends
            )
            counts[label_of(truth, protocol[0], first, second)] += 1
    return counts


def require(kind: str) -> None:
    if absent := missing(kind):
        pytest.skip(f"needs {', '.join(absent)}")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """One session of every kind that can run here, whole packets, all of them."""
    path = tmp_path_factory.mktemp("lab") / "all.pcap"
    return record(path, seed=7, sessions=1, first=0, speed=4.0)


@pytest.fixture(scope="module")
def counts(recording):
    return flows_by_label(recording.path)


@pytest.mark.parametrize("kind", KINDS)
def test_kind_makes_flows_of_its_label(kind, recording, counts):
    require(kind)
    assert [s.error for s in recording.sessions if s.label == kind] == [""]
    assert counts[kind] >= 1


def test_every_flow_has_a_label(counts):
    assert counts[None] == 0


def test_nothing_is_readable_on_the_wire(recording):
    content = recording.path.read_bytes()
    assert MARKER.strip() not in content
    assert b"GET /" not in content
    assert b"SELECT" not in content


def test_frames_fit_the_wire(recording):
    assert max(length for length, _ in frames_of(recording.path)) <= 1514


def test_capture_lost_nothing(recording):
    assert recording.dropped == 0
    assert recording.packets == recording.seen == len(frames_of(recording.path))


def test_seeds_make_other_traffic(tmp_path):
    require(CHEAP)
    lengths, servers = [], []
    for seed in (1, 2):
        path = tmp_path / f"{seed}.pcap"
        record(path, [CHEAP], seed=seed, sessions=1, speed=10.0)
        lengths.append([length for length, _ in frames_of(path)])
        servers.append({row.address for row in read_truth(tmp_path / "labels.csv")[path.name]})
    assert lengths[0] != lengths[1]
    assert not servers[0] & servers[1]


def namespaces() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def processes_with(text: str) -> list[str]:
    """Return the command lines of running programs that mention text, ours left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if text in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found


def assert_gone(name: str) -> None:
    assert name not in namespaces()
    assert processes_with(name) == []
    assert not (Path(tempfile.gettempdir()) / name).exists()


def test_leaving_removes_everything():
    require(CHEAP)
    with Lab([CHEAP], seed=3) as lab:
        assert processes_with(lab.name)
        assert lab.router in namespaces()
    assert_gone(lab.name)


def test_an_error_amid_sessions_removes_everything():
    require(CHEAP)
    with pytest.raises(KeyboardInterrupt), Lab([CHEAP], seed=3) as lab:
        for _ in lab.run(sessions=20):
            raise KeyboardInterrupt
    assert_gone(lab.name)


def test_two_labs_run_at_once():
    require(CHEAP)
    with Lab([CHEAP], seed=3) as one, Lab([CHEAP], seed=3) as two:
        assert one.router != two.router
        assert all(session.ok for lab in (one, two) for session in lab.run(1, speed=10.0))


def test_a_killed_lab_is_removed_by_the_next():
    require(CHEAP)
    code = f"from etcpipe.lab import Lab\nwith Lab([{CHEAP!r}]) as lab: print(lab.name); input()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        name = process.stdout.readline().strip()
        remove_stale_labs()
        assert name in namespaces()  # it lives
        process.send_signal(signal.SIGKILL)
    assert name in namespaces()
    remove_stale_labs()
    assert_gone(name)


def test_record_into_no_folder_says_so(tmp_path):
    with pytest.raises(LabError, match="make it first"):
        record(tmp_path / "absent" / "x.pcap", [CHEAP])


@pytest.mark.parametrize(
    ("version", "first", "user"),
    [
        ((2, 3, 19, 1), "base_dir = /lab/run", "home=/lab/mail/%u"),
        ((2, 4, 1), "dovecot_config_version = 2.4.0", "home = /lab/mail/%{user}"),
    ],
)
def test_dovecot_is_told_in_the_words_of_its_version(version, first, user):
    places = {"folder": "/lab", "listen": "10.0.0.1", "chain": "/lab/c", "key": "/lab/k"}
    lines = messages.dovecot_conf(version).format(**places).split("\n")
    assert next(filter(None, lines)) == first
    assert any(user in line for line in lines)
