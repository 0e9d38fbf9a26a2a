"""Verdict lines by the Kafka protocol, to a broker of librdkafka's own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from receiving import TIMEOUT_S
from verdicts import Flow, verdicts
from waiting import free_port, until

from etcpipe.errors import OutputError, UsageError
from etcpipe.outputs import columns_of, eve, queued
from etcpipe.outputs import kafka as kafka_output
from etcpipe.outputs.targets import Targets

COLUMNS = columns_of(verdicts(Flow(), Flow(label=0)))
LINES = eve.lines(COLUMNS)


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    """Failures are tried again at once."""
    monkeypatch.setattr(queued, "RETRY_S", 0.02)


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


def test_messages_are_handed_over_once_and_a_batch_whole(monkeypatch):
    """Else what waits at the end is counted twice, or a broker that is back gets it twice."""
    pytest.importorskip("confluent_kafka")
    monkeypatch.setattr(kafka_output, "DRAIN_S", 0.05)
    monkeypatch.setattr(kafka_output, "PROBE_S", 0.05)
    output = kafka_output.Kafka(
        f"127.0.0.1:{free_port()}", "verdicts", {"queue.buffering.max.messages": "3"}
    )
    dropped: list[int] = []
    output.on_drop = lambda n, reason: dropped.append(n)
    until(lambda: is_gone(output))
    output.write(COLUMNS)
    with pytest.raises(OSError, match=r"too slowly|no broker"):
        output.write(COLUMNS)
    with pytest.raises(OutputError, match="2 messages"):
        output.close()
    assert sum(dropped) == 2


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


def is_gone(output: kafka_output.Kafka) -> bool:
    try:
        output.tick()
    except OSError:
        return True
    return False


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
