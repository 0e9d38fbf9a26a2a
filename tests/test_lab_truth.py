"""The lab without root: labels, trimming, what it asks for."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from etcpipe.errors import LabError, PermissionDeniedError
from etcpipe.lab import KINDS, Lab, Truth, label_of, read_truth
from etcpipe.lab.kind import command
from etcpipe.lab.network import AddressPlan
from etcpipe.lab.processes import Program
from etcpipe.lab.requirements import choose_kinds, require
from etcpipe.lab.trim import Trimmed, flow_of, trim
from etcpipe.lab.truth import append_truth

TRUTH = [
    Truth("web", "198.18.0.7", "tcp", 443),
    Truth("call", "198.18.0.8", "udp"),
    Truth("any", "fd00::5"),
]
CLIENT = ("10.0.0.2", 40000)


@pytest.mark.parametrize(
    ("protocol", "server", "label"),
    [
        pytest.param("tcp", ("198.18.0.7", 443), "web", id="exact"),
        pytest.param(6, ("198.18.0.7", 443), "web", id="protocol as a number"),
        pytest.param("udp", ("198.18.0.7", 443), None, id="other protocol"),
        pytest.param("tcp", ("198.18.0.7", 80), None, id="other port"),
        pytest.param("udp", ("198.18.0.8", 31), "call", id="any port"),
        pytest.param(132, ("198.18.0.8", 31), None, id="protocol that no row names"),
        pytest.param("udp", ("fd00:0::0005", 9), "any", id="IPv6 in another spelling"),
        pytest.param("tcp", ("198.18.0.9", 443), None, id="stranger"),
    ],
)
def test_label_follows_the_servers_endpoint(protocol, server, label):
    assert label_of(TRUTH, protocol, CLIENT, server) == label
    assert label_of(TRUTH, protocol, server, CLIENT) == label


def test_labels_csv_keeps_other_captures(tmp_path):
    path = tmp_path / "labels.csv"
    append_truth(path, "a.pcap", [TRUTH[0]])
    append_truth(path, "b.pcap", TRUTH[1:])
    append_truth(path, "a.pcap", [TRUTH[2]])
    assert read_truth(path) == {"a.pcap": [TRUTH[2]], "b.pcap": TRUTH[1:]}
    assert path.read_text().splitlines()[:2] == [
        "capture,label,address,protocol,port",
        "b.pcap,call,198.18.0.8,udp,*",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "one,two\n1,2\n",
        "capture,label,address,protocol,port\na.pcap,web,not-an-address,tcp,443\n",
        "capture,label,address,protocol,port\na.pcap,web,198.18.0.7,tcp,https\n",
        "capture,label,address,protocol,port\na.pcap,web\n",
    ],
)
def test_foreign_labels_csv_is_refused(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(LabError, match=r"labels\.csv"):
        read_truth(path)


def frame(
    source: int, target: int, flags: int = 0x10, protocol: int = 6, payload: int = 0
) -> bytes:
    """Return an IPv4 frame from 10.0.0.<source> to 10.0.0.<target>, ports as the hosts."""
    length = 40 + payload
    ip = struct.pack(
        "!BBHHHBBH4B4B", 0x45, 0, length, 0, 0, 64, protocol, 0, *hosts(source, target)
    )
    transport = struct.pack("!HHIIBBHHH", source, target, 0, 0, 0x50, flags, 0, 0, 0)
    return bytes(12) + b"\x08\x00" + ip + transport + bytes(payload)


def hosts(source: int, target: int) -> tuple[int, ...]:
    return (10, 0, 0, source, 10, 0, 0, target)


def write_pcap(path: Path, frames: list[bytes]) -> None:
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    records = [struct.pack("=IIII", n, 0, len(f), 2000) + f for n, f in enumerate(frames)]
    path.write_bytes(header + b"".join(records))


def test_flow_is_the_same_in_both_directions():
    assert flow_of(frame(1, 2))[0] == flow_of(frame(2, 1))[0]
    assert flow_of(frame(1, 2))[0] != flow_of(frame(1, 3))[0]
    assert flow_of(frame(1, 2))[0] != flow_of(frame(1, 2, protocol=17))[0]


def test_trim_keeps_first_packets_and_the_end(tmp_path):
    syn, ack, fin = 0x02, 0x10, 0x11
    frames = [
        frame(1, 2, syn),
        frame(2, 1, 0x12),
        frame(3, 4, ack, protocol=17),
        frame(1, 2, ack, payload=9),  # past the first two
        frame(2, 1, fin),
        frame(1, 2, syn),  # the same ports again: counted anew
        frame(2, 1, ack),
        frame(2, 1, ack),  # past the first two
    ]
    write_pcap(tmp_path / "raw.pcap", frames)
    trimmed = trim(tmp_path / "raw.pcap", tmp_path / "kept.pcap", first=2)
    assert trimmed == Trimmed(packets=6, seen=8, flows=3)
    record_bytes = 16 + 54
    raw = (tmp_path / "raw.pcap").read_bytes()
    kept = (tmp_path / "kept.pcap").read_bytes()
    chosen = [raw[24 + n * record_bytes :][:record_bytes] for n in (0, 1, 2)]
    assert kept[: 24 + 3 * record_bytes] == raw[:24] + b"".join(chosen)
    assert kept.endswith(frames[6])


def test_trim_keeps_all_when_told(tmp_path):
    write_pcap(tmp_path / "raw.pcap", [frame(1, 2)] * 50)
    assert trim(tmp_path / "raw.pcap", tmp_path / "kept.pcap", first=0).packets == 50
    assert (tmp_path / "kept.pcap").read_bytes() == (tmp_path / "raw.pcap").read_bytes()


def test_trim_refuses_an_empty_capture(tmp_path):
    (tmp_path / "raw.pcap").write_bytes(b"")
    with pytest.raises(LabError, match="nothing"):
        trim(tmp_path / "raw.pcap", tmp_path / "kept.pcap", first=2)


def test_seeds_draw_other_addresses():
    first, again, other = (AddressPlan(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.client == again.client
    assert first.client != other.client
    assert first.server() == again.server()
    assert first.server() != other.server()


def test_command_keeps_values_whole():
    words = command("curl -A {agent} {urls} {n:03d}", agent="a b", urls=["x", "y z"], n=7)
    assert words == ["curl", "-A", "a b", "x", "y z", "007"]


def test_labels_are_unique_and_at_least_fifteen():
    assert len(KINDS) >= 15
    assert all(name == kind.name for name, kind in KINDS.items())


def test_unknown_kind_is_refused():
    with pytest.raises(LabError, match="etcpipe lab list"):
        choose_kinds(["telnet"])


def test_missing_programs_name_their_packages():
    absent = [Program("no-such-program", "some-package"), Program("sh", "dash")]
    absent.append(Program("no_such_module", "some-wheel", is_module=True, is_from_pypi=True))
    with pytest.raises(LabError) as raised:
        require("web", absent)
    assert str(raised.value) == (
        "web needs no-such-program, no_such_module: "
        "apt install some-package; pip install some-wheel"
    )


def test_lab_needs_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDeniedError, match="root"), Lab(kinds=[]):
        pass
