"""A class that hides in one field: under the strict mask no model finds it, under none one does.

Each capture has a twin of the other class, the same packet for packet but for one field. If a
flow's rows equal its twin's, whoever judges by them is right on one of the two: at chance.
The trees here see all views at once.
"""

from dataclasses import replace

import numpy as np
import pytest
from captures import pcap, write
from frames import client_hello, ether, ipv4, record, server_name, tcp

from etcpipe import dataset as datasets
from etcpipe.dataset import STATS, Input

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
from etcpipe.training import trees

VIEWS = ("raw", "image", "tok", "packet", "bits")
FLOWS, PAIRS = 20, 2
DAY_NS = 86_400 * 10**9


def timestamps(value):
    return b"\x01\x01\x08\x0a" + value.to_bytes(8, "big")


# Keyword arguments of packet() by class.
PLANTED = {
    "client address": ({"client": "10.1.2.3"}, {"client": "192.0.2.77"}),
    "server address": ({"server": "10.1.2.4"}, {"server": "192.0.2.78"}),
    "server port": ({"port": 443}, {"port": 8443}),
    "sequence number": ({"seq": 0x01000000}, {"seq": 0xF1000000}),
    "acknowledgement": ({"ack": 0x01000000}, {"ack": 0xF1000000}),
    "ip id": ({"ident": 0x0101}, {"ident": 0xF1F1}),
    "ttl": ({"ttl": 64}, {"ttl": 57}),
    "type of service": ({"tos": 0}, {"tos": 0xB8}),
    "tcp checksum": ({"check": 0x0101}, {"check": 0xF1F1}),
    "tcp timestamp": ({"options": timestamps(1)}, {"options": timestamps(2**63)}),
    "tcp window": ({"window": 1000}, {"window": 60000}),
    "server name": ({"name": b"www.example"}, {"name": b"ads.example"}),
}


def packet(step, size, sport, planted):
    """One packet of a flow: a ClientHello first, then records either way."""
    fields = {"client": "10.0.0.1", "server": "10.0.0.2", "port": 443, "name": b"www.example"}
    fields |= {key: value for key, value in planted.items() if key in fields}
    of_ip = {key: planted[key] for key in ("ident", "ttl", "tos") if key in planted}
    keys = ("seq", "ack", "check", "options", "window")
    of_tcp = {key: planted[key] for key in keys if key in planted}
    hello = client_hello(server_name(fields["name"]))
    payload = record(23, bytes(size)) if step else record(22, hello)
    ends = [(fields["client"], sport), (fields["server"], fields["port"])]
    (src, sport), (dst, dport) = ends[:: -1 if step % 2 else 1]
    segment = tcp(payload, sport=sport, dport=dport, **of_tcp)
    return ether(ipv4(6, segment, src, dst, **of_ip))


def write_twins(folder, planted, shift_ns=0):
    """Return recordings, for each pair one of class 0 and one of class 1."""
    recordings = []
    for pair in range(PAIRS):
        for label in (0, 1):
            rng = np.random.default_rng(pair)  # the same for both
            packets = []
            for flow in range(FLOWS):
                sport = int(rng.integers(20000, 60000))
                at = flow * 10**10 + label * shift_ns
                for step in range(4):
                    at += int(rng.integers(10**6, 10**8))
                    size = int(rng.integers(50, 1200))
                    packets.append((at, packet(step, size, sport, planted[label])))
            file = write(folder / f"{pair}-{label}.pcap", pcap(packets, nanoseconds=True))
            recordings.append(datasets.Recording(file, lambda flow, name=str(label): name))
    return recordings


def rows_and_labels(recordings, mask):
    """Return all views side by side, labels and pairs; twins in the same order."""
    dataset = datasets.read(recordings, Input(), views=VIEWS, mask=mask)
    assert len(dataset) == 2 * PAIRS * FLOWS
    dataset = replace(dataset, capture=dataset.capture // 2)
    order = np.lexsort((dataset.first_us, dataset.capture, dataset.label))
    shown = [dataset.columns(STATS.column_names(mask)), dataset.seq]
    shown += [dataset.views[name] for name in VIEWS]
    rows = np.hstack([one[order].reshape(len(dataset), -1).astype(np.float32) for one in shown])
    return rows, dataset.label[order], dataset.capture[order]


def accuracy(rows, label, pair):
    """Return how often trees are right on pairs that they did not see."""
    said = np.zeros(len(label), int)
    varies = rows.std(axis=0) > 0
    rows = rows[:, varies] if varies.any() else rows[:, :1]
    for i in range(PAIRS):
        seen = pair != i
        fitted = trees.fit(rows[seen], label[seen], 2, seed=1, rounds=20)
        said[~seen] = fitted.scores(rows[~seen]).argmax(axis=1)
    return (said == label).mean()


@pytest.mark.parametrize("field", PLANTED)
def test_strict_is_at_chance_and_none_finds_it(field, tmp_path):
    recordings = write_twins(tmp_path, PLANTED[field])
    rows, label, pair = rows_and_labels(recordings, "strict")
    np.testing.assert_array_equal(rows[label == 0], rows[label == 1])
    assert rows.std(axis=0).max() > 0  # sizes and times are there
    assert accuracy(rows, label, pair) == 0.5
    assert accuracy(*rows_and_labels(recordings, "none")) > 0.95


@pytest.mark.parametrize("mask", ["strict", "none"])
def test_the_time_of_day_is_in_no_view(mask, tmp_path):
    rows, label, pair = rows_and_labels(write_twins(tmp_path, [{}, {}], DAY_NS), mask)
    np.testing.assert_array_equal(rows[label == 0], rows[label == 1])
    assert accuracy(rows, label, pair) == 0.5
