"""Verdict lines to syslog, and any UDP collector that is gone."""

import os
import re
import socket
import time
from contextlib import closing

import pytest
from receiving import TIMEOUT_S, receiver
from test_outputs_ipfix import ended
from verdicts import Flow, verdicts
from waiting import free_port, until

from etcpipe.outputs import columns_of, eve, queued
from etcpipe.outputs.targets import Targets

COLUMNS = columns_of(verdicts(Flow(), Flow(label=0)))
LINES = eve.lines(COLUMNS)


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    """Failures are tried again at once."""
    monkeypatch.setattr(queued, "RETRY_S", 0.02)


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
