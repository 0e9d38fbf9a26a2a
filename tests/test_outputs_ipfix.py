"""Flows to IPFIX collectors: the messages, and what collectors read in them."""

import json
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from receiving import TIMEOUT_S
from records import flow_record
from test_cli_live import attached, send_flows
from verdicts import Flow, verdicts
from waiting import free_port, until

from etcpipe.outputs.ipfix import Deltas
from etcpipe.outputs.ipfix_message import MESSAGE_BYTES, Writer
from etcpipe.outputs.labels import Ended, Labels
from etcpipe.outputs.targets import Targets

NAMES = ["unknown", "ssh", "web"]


def ended(n: int, name: int = 2, **options) -> Ended:
    records = np.concatenate([flow_record(flow_id=i + 1, **options) for i in range(n)])
    return Ended(records, np.full(n, name, np.uint16), np.full(n, 0.875, np.float32), NAMES)


def sets(message: bytes) -> list[tuple[int, bytes]]:
    """Return (id, content) of the sets of an IPFIX message."""
    version, length = struct.unpack(">HH", message[:4])
    assert (version, length) == (10, len(message))
    found, at = [], 16
    while at < length:
        number, size = struct.unpack(">HH", message[at : at + 4])
        found.append((number, message[at + 4 : at + size]))
        at += size
    return found


def test_ipfix_record_by_hand():
    (message,) = Writer().flows(ended(1), clock_offset_ns=10_000_000_000, now_s=20)
    ((number, content),) = sets(message)
    assert number == 256
    assert content == struct.pack(
        ">QQ4s4sHHBBHHQQQQQQQId",
        11_000,
        13_500,
        bytes([198, 51, 100, 7]),
        bytes([192, 0, 2, 1]),
        40000,
        443,
        6,
        1,
        0x1B,
        0x13,
        5,
        500 - 5 * 14,
        500,
        7,
        7000 - 7 * 14,
        7000,
        1,
        6 << 24 | 2,
        0.875,
    )


def test_ipfix_templates_describe_the_records():
    described, named = Writer().templates(NAMES, now_s=20)
    (templates, content), (options, _) = sets(described)
    assert (templates, options) == (2, 3)
    number, fields = struct.unpack(">HH", content[:4])
    assert (number, fields) == (256, 19)
    assert content[4:8] == struct.pack(">HH", 152, 8)
    ((number, content),) = sets(named)
    assert number == 258
    assert content[36 : 36 + 36] == struct.pack(">I32s", 6 << 24 | 1, b"ssh")


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning")
def test_ipfix_is_what_another_library_reads():
    pytest.importorskip("ipfix")
    import ipfix.ie
    import ipfix.reader

    ipfix.ie.use_iana_default()
    ipfix.ie.use_5103_default()
    writer = Writer()
    messages = [
        *writer.templates(NAMES, 20),
        *writer.flows(ended(1), 0, 20),
        *writer.flows(ended(1, version=6, name=1), 0, 20),
    ]
    reader = ipfix.reader.from_stream(BytesIO(b"".join(messages)))
    *names, four, six = reader.namedict_iterator()
    by_id = {row["applicationId"]: row["applicationName"].rstrip("\0") for row in names}
    assert by_id[four["applicationId"]] == "web"
    assert by_id[six["applicationId"]] == "ssh"
    assert str(four["sourceIPv4Address"]) == "198.51.100.7"
    assert str(six["destinationIPv6Address"]) == "2001:db8::1"
    assert (four["packetDeltaCount"], four["reversePacketDeltaCount"]) == (5, 7)
    assert four["reverseLayer2OctetDeltaCount"] == 7000
    assert four["confidenceLevel"] == 0.875


def test_ipfix_messages_fit_a_packet_and_count_records():
    messages = list(Writer().flows(ended(100), 0, 20))
    assert len(messages) > 1
    assert max(map(len, messages)) <= MESSAGE_BYTES
    sequences = [struct.unpack(">I", message[8:12])[0] for message in messages]
    assert sequences[0] == 0
    assert sequences == sorted(set(sequences))
    (first,) = {len(sets(message)[0][1]) // sequences[1] for message in messages[:1]}
    assert first == len(sets(messages[0])[0][1]) // sequences[1]


def test_long_flow_tells_each_packet_once():
    deltas = Deltas()
    (first,) = deltas.since_told(flow_record(reason="active"))["state"]
    (last,) = deltas.since_told(flow_record(packets=(6, 7), octets=(600, 7000)))["state"]
    assert first["packets"].tolist() == [5, 7]
    assert last["packets"].tolist() == [1, 0]
    assert last["bytes"].tolist() == [100, 0]
    assert last["first_ns"] == 3_500_000_000
    assert deltas.since_told(flow_record())["state"]["packets"].tolist() == [[5, 7]]


def test_label_of_a_flow_is_remembered_until_its_end():
    labels = Labels(size=8)
    labels.add(verdicts(Flow(label=1), Flow(label=-1, probability=0.5), Flow(label=0)))
    records = np.concatenate([flow_record(flow_id=i) for i in (1, 2, 3, 9, 4)])
    known = labels.of(records)
    assert [known.names[i] for i in known.name] == ["web", "unknown", "ssh", "unknown", "unknown"]
    assert known.probability.tolist() == [0.875, 0.5, 0.875, 0, 0]
    labels.add(verdicts(Flow(label=1), classes=("quic", "web")))
    assert labels.names == ["unknown", "ssh", "web", "quic"]


@contextmanager
def nfcapd(folder: Path) -> Iterator[int]:
    """Run nfdump's collector; yields its port."""
    if not shutil.which("nfcapd"):
        pytest.skip("nfdump is not installed")
    port = free_port()
    log = (folder / "log").open("wb")
    with (
        log,
        subprocess.Popen(
            ["nfcapd", "-w", str(folder), "-p", str(port), "-b", "127.0.0.1", "-t", "60"],
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            until(lambda: bool(bytes_unread(port)))
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT_S)


def bytes_unread(port: int) -> list[int]:
    """Return what each UDP socket of a port holds that nobody has read; empty: none is bound."""
    with open("/proc/net/udp") as table:
        rows = [line.split() for line in list(table)[1:]]
    return [int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(f":{port:04X}")]


def is_read(port: int) -> bool:
    return bytes_unread(port) == [0]


def dumped(folder: Path) -> list[dict]:
    """Return what nfdump reads in the collector's files."""
    files = [path for path in folder.iterdir() if path.name.startswith("nfcapd.")]
    rows = []
    for path in files:
        done = subprocess.run(
            ["nfdump", "-q", "-r", path, "-o", "json"], capture_output=True, text=True, check=True
        )
        said = re.sub(r"^}\s*^{", "},{", done.stdout, flags=re.MULTILINE)
        # version 1.7.1 writes objects one after the other, later ones a list of them
        rows += json.loads(said if said.startswith("[") else f"[{said}]")
    return rows


@pytest.mark.parametrize("version", [4, 6])
def test_nfdump_reads_what_is_sent(tmp_path, version):
    with nfcapd(tmp_path) as port:
        with Targets([f"ipfix://127.0.0.1:{port}"]) as targets:
            targets.write_flows(ended(30, version=version))
            until(lambda: targets.states()[0]["written"] == 30)
        until(lambda: is_read(port))
    rows = dumped(tmp_path)
    assert len(rows) == 30
    row = rows[0]
    family = f"src{version}_addr"
    assert row[family] == {4: "198.51.100.7", 6: "2001:db8::2"}[version]
    assert (row["src_port"], row["dst_port"], row["proto"]) == (40000, 443, 6)
    assert (row["in_packets"], row["in_bytes"]) == (5, 430)
    assert (row["out_packets"], row["out_bytes"]) == (7, 6902)


@pytest.mark.root
def test_flows_of_a_running_attach_reach_the_collector(wire, tmp_path):
    collected = tmp_path / "collected"
    collected.mkdir()
    with nfcapd(collected) as port:
        target = f"ipfix://127.0.0.1:{port}"
        with attached(wire, tmp_path, "-o", target) as etcpipe:
            etcpipe.until_attached()
            send_flows(wire, 3)
            etcpipe.until(lambda: etcpipe.stdout.count("4433") >= 3)
            assert etcpipe.signalled(signal.SIGINT) == 0
        until(lambda: is_read(port))
    ours = [row for row in dumped(collected) if row.get("dst_port") == 4433]
    assert {row["src_port"] for row in ours} == {20000, 20001, 20002}
    assert {row["in_packets"] for row in ours} == {10}
    assert wire.leftovers() == []


def test_ipfix_over_tcp_sends_templates_with_each_connection():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(TIMEOUT_S)
        target = f"ipfix+tcp://127.0.0.1:{server.getsockname()[1]}"
        with Targets([target]) as targets:
            for _ in range(2):
                targets.write_flows(ended(1))
                with closing(server.accept()[0]) as connection:
                    connection.settimeout(TIMEOUT_S)
                    numbers = first_sets(connection, 4)
                    assert numbers == [2, 3, 258, 256]
                targets.reopen()


def first_sets(connection: socket.socket, n: int) -> list[int]:
    text, found = b"", []
    while len(found) < n:
        text += connection.recv(65536)
        while len(text) >= 4 and len(text) >= (length := struct.unpack(">H", text[2:4])[0]):
            found += [number for number, _ in sets(text[:length])]
            text = text[length:]
    return found
