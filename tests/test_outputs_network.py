"""Syslog, IPFIX and Kafka: what arrives, and what happens while nobody takes it."""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from test_cli_live import attached, send_flows
from verdicts import Flow, key_of, verdicts
from waiting import free_port, until

from etcpipe.errors import UsageError
from etcpipe.layout import END_REASONS, FLOW_RECORD
from etcpipe.outputs import columns_of, eve, queued
from etcpipe.outputs.ipfix import Deltas
from etcpipe.outputs.ipfix_message import MESSAGE_BYTES, Writer
from etcpipe.outputs.labels import Ended, Labels
from etcpipe.outputs.targets import Targets

COLUMNS = columns_of(verdicts(Flow(), Flow(label=0)))
LINES = eve.lines(COLUMNS)
NAMES = ["unknown", "ssh", "web"]
TIMEOUT_S = 20


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    """Failures are tried again at once."""
    monkeypatch.setattr(queued, "RETRY_S", 0.02)


@contextmanager
def receiver(port: int = 0) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as bound:
        bound.bind(("127.0.0.1", port))
        bound.settimeout(TIMEOUT_S)
        yield bound


def test_local_syslog_gets_a_line_a_verdict(tmp_path):
    path = tmp_path / "log"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as daemon:
        daemon.bind(str(path))
        daemon.settimeout(TIMEOUT_S)
        with Targets([f"syslog:{path}"]) as targets:
            targets.write(COLUMNS)
            received = [daemon.recv(65536).decode() for _ in range(2)]
    assert received == [f"<174>etcpipe[{os.getpid()}]: {line}" for line in LINES]


def test_remote_syslog_is_rfc_5424():
    with receiver() as loghost:
        with Targets([f"syslog://127.0.0.1:{loghost.getsockname()[1]}"]) as targets:
            targets.write(COLUMNS)
            received = loghost.recv(65536).decode()
    start = rf"<174>1 2023-11-14T22:13:21\.000000Z \S+ etcpipe {os.getpid()} verdict - "
    assert re.match(start, received)
    assert re.sub(start, "", received) == LINES[0]


@pytest.mark.parametrize("scheme", ["syslog", "ipfix"])
def test_udp_collector_that_is_gone_is_one_line_until_it_is_back(scheme, caplog):
    port = free_port()
    target = f"{scheme}://127.0.0.1:{port}"
    with Targets([target]) as targets:
        write = targets.write if scheme == "syslog" else targets.write_flows
        events = COLUMNS if scheme == "syslog" else ended(1)
        for _ in range(2):
            write(events)
        until(lambda: targets.states()[0]["error"] == "Connection refused")
        time.sleep(0.3)  # many tries, each of which the kernel accepts at first
        assert len(caplog.records) == 1
        with receiver(port) as collector:
            until(lambda: targets.states()[0]["waiting"] == 0)
            assert collector.recv(65536)
        assert targets.states()[0]["dropped"] == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"{target}: Connection refused; trying again, verdicts wait or are dropped",
        f"{target}: works again; 0 events dropped so far",
    ]


def flow_record(
    flow_id: int = 1,
    packets: tuple[int, int] = (5, 7),
    octets: tuple[int, int] = (500, 7000),
    reason: str = "idle",
    version: int = 4,
) -> np.ndarray:
    """Return (1,) FLOW_RECORD of a TCP flow whose initiator is end b."""
    record = np.zeros(1, FLOW_RECORD)
    ends = ("192.0.2.1", "198.51.100.7") if version == 4 else ("2001:db8::1", "2001:db8::2")
    record["key"] = key_of((ends[0], 443), (ends[1], 40000), 6)
    record["reason"] = END_REASONS.index(reason)
    state = record["state"]
    state["flow_id"], state["initiator"] = flow_id, 1
    state["packets"], state["bytes"] = packets, octets
    state["tcp_flags"] = (0x1B, 0x13)
    state["first_ns"], state["last_ns"] = 1_000_000_000, 3_500_000_000
    return record


def ended(n: int, name: int = 2, **options) -> Ended:
    records = np.concatenate([flow_record(flow_id=i + 1, **options) for i in range(n)])
    return Ended(records, np.full(n, name, np.uint16), NAMES)


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
        ">QQ4s4sHHBBHHQQQQQQQI",
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
    )


def test_ipfix_templates_describe_the_records():
    described, named = Writer().templates(NAMES, now_s=20)
    (templates, content), (options, _) = sets(described)
    assert (templates, options) == (2, 3)
    number, fields = struct.unpack(">HH", content[:4])
    assert (number, fields) == (256, 18)
    assert content[4:8] == struct.pack(">HH", 152, 8)
    ((number, content),) = sets(named)
    assert number == 258
    assert content[36 : 36 + 36] == struct.pack(">I32s", 6 << 24 | 1, b"ssh")


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
    labels.add(verdicts(Flow(label=1), Flow(label=-1), Flow(label=0)))
    records = np.concatenate([flow_record(flow_id=i) for i in (1, 2, 3, 9, 4)])
    known = labels.of(records)
    assert [known.names[i] for i in known.name] == ["web", "unknown", "ssh", "unknown", "unknown"]
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
            until(lambda: is_bound(port))
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT_S)


def is_bound(port: int) -> bool:
    wanted = f"{port:04X}"
    with open("/proc/net/udp") as table:
        return any(line.split()[1].endswith(f":{wanted}") for line in list(table)[1:])


def dumped(folder: Path) -> list[dict]:
    """Return what nfdump reads in the collector's files."""
    files = [path for path in folder.iterdir() if path.name.startswith("nfcapd.")]
    rows = []
    for path in files:
        done = subprocess.run(
            ["nfdump", "-q", "-r", path, "-o", "json"], capture_output=True, text=True, check=True
        )
        # version 1.7.1 writes objects one after the other, without a list around them
        rows += json.loads("[" + re.sub(r"^}\s*^{", "},{", done.stdout, flags=re.MULTILINE) + "]")
    return rows


@pytest.mark.parametrize("version", [4, 6])
def test_nfdump_reads_what_is_sent(tmp_path, version):
    with nfcapd(tmp_path) as port:
        with Targets([f"ipfix://127.0.0.1:{port}"]) as targets:
            targets.write_flows(ended(30, version=version))
            until(lambda: targets.states()[0]["written"] == 30)
        time.sleep(0.5)  # the collector reads what its socket holds
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
        time.sleep(0.5)
    ours = [row for row in dumped(collected) if row["dst_port"] == 4433]
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


@pytest.fixture
def cluster() -> Iterator[str]:
    """A broker of librdkafka's own: it speaks the protocol on a port of this machine."""
    kafka = pytest.importorskip("confluent_kafka")
    holder = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = holder.list_topics(timeout=TIMEOUT_S).brokers.values()
    yield f"{broker.host}:{broker.port}"
    holder.flush(0)


def consumed(brokers: str, n: int) -> list:
    import confluent_kafka

    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": brokers, "group.id": "test", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["verdicts"])
    try:
        found: list = []
        deadline = time.monotonic() + TIMEOUT_S
        while len(found) < n:
            assert time.monotonic() < deadline
            found += [m for m in consumer.consume(n - len(found), 0.5) if not m.error()]
        return found
    finally:
        consumer.close()


def test_kafka_message_is_a_verdict_line_under_its_community_id(cluster):
    with Targets([f"kafka://{cluster}/verdicts?compression.type=gzip"]) as targets:
        targets.write(COLUMNS)
        messages = consumed(cluster, 2)
    assert [message.value().decode() for message in messages] == LINES
    assert [message.key().decode() for message in messages] == COLUMNS.community_id


def test_broker_that_is_gone_is_one_line_and_events_are_counted(caplog, monkeypatch):
    pytest.importorskip("confluent_kafka")
    monkeypatch.setattr("etcpipe.outputs.kafka.DRAIN_S", 0.2)
    monkeypatch.setattr("etcpipe.outputs.kafka.PROBE_S", 0.2)
    monkeypatch.setattr(queued, "DRAIN_S", 0.5)
    monkeypatch.setattr(queued, "TICK_S", 0.05)
    target = f"kafka://127.0.0.1:{free_port()}/verdicts"
    with Targets([target]) as targets:
        targets.write(COLUMNS)
        until(lambda: targets.states()[0]["error"] is not None)
        for _ in range(5):
            targets.write(COLUMNS)
        time.sleep(0.5)
        assert len(caplog.records) == 1
        assert "answers; trying again" in caplog.records[0].getMessage()
    (state,) = targets.states()
    assert sum(state["dropped"].values()) == 12


def test_broker_that_comes_late_gets_everything(monkeypatch, caplog):
    """The broker is found dead by another port's name, then there: a proxy that is switched on."""
    kafka = pytest.importorskip("confluent_kafka")
    monkeypatch.setattr("etcpipe.outputs.kafka.PROBE_S", 0.5)
    monkeypatch.setattr(queued, "TICK_S", 0.05)
    port = free_port()
    with Targets([f"kafka://127.0.0.1:{port}/verdicts"]) as targets:
        targets.write(COLUMNS)
        until(lambda: targets.states()[0]["error"] is not None)
        holder = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
        (broker,) = holder.list_topics(timeout=TIMEOUT_S).brokers.values()
        with proxy(port, (broker.host, broker.port)):
            until(lambda: targets.states()[0]["error"] is None)
            messages = consumed(f"{broker.host}:{broker.port}", 2)
    assert [message.value().decode() for message in messages] == LINES
    assert len(caplog.records) == 2


@contextmanager
def proxy(port: int, to: tuple[str, int]) -> Iterator[None]:
    """Hand connections to a port on to another one."""
    program = """
import socket, sys, threading
def pipe(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for end in (a, b):
        end.close()
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    near, _ = server.accept()
    far = socket.create_connection((sys.argv[2], int(sys.argv[3])))
    for ends in ((near, far), (far, near)):
        threading.Thread(target=pipe, args=ends, daemon=True).start()
"""
    with subprocess.Popen([sys.executable, "-c", program, str(port), to[0], str(to[1])]) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("target", ["kafka://broker", "kafka:///topic", "kafka:"])
def test_kafka_wants_broker_and_topic(target):
    with pytest.raises(UsageError, match="name broker and topic"):
        Targets([target])


def test_setting_that_kafka_does_not_know_is_refused():
    pytest.importorskip("confluent_kafka")
    with pytest.raises(UsageError, match="No such configuration property"):
        Targets(["kafka://broker/topic?no.such=1"])


def test_kafka_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(UsageError, match=r"pip install 'etcpipe\[kafka\]'"):
        Targets(["kafka://broker/topic"])
