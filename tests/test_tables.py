"""Verdicts as tables for people, and what they add up to."""

import numpy as np
import pytest
from verdicts import SECOND, Flow, verdicts

from etcpipe.outputs import columns_of
from etcpipe.outputs.summary import Summary, counter_lines
from etcpipe.outputs.table import FlowTable, LiveTable, Table, endpoint, milliseconds

SIX = Flow(a=("2001:db8::1", 51820), b=("2001:db8::2", 51820), protocol=17)
GONE = Flow(known=False)
MUTE = Flow(packets=(1, 0), label=-1, runner_up=-1, probability=0.0, packets_used=0)


def test_table_aligns_and_never_narrows():
    table = Table(["name", ">count"])
    assert table.lines([["a", "1"], ["longer", "12"]]) == [
        "name    count",
        "a           1",
        "longer     12",
    ]
    assert table.lines([["b", "2"]], header=False) == ["b           2"]


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("192.0.2.1", 443, "192.0.2.1:443"),
        ("2001:db8::1", 443, "[2001:db8::1]:443"),
        ("192.0.2.1", 0, "192.0.2.1"),
        ("2001:db8::1", 0, "2001:db8::1"),
    ],
)
def test_endpoint(address, port, expected):
    assert endpoint(address, port) == expected


def test_live_table_prints_the_header_once():
    printed: list[str] = []
    table = LiveTable(printed.append, clock_offset_ns=0)
    table.write(verdicts())
    table.write(verdicts(Flow()))
    table.write(verdicts(SIX))
    lines = "\n".join(printed).splitlines()
    header = ["time", "proto", "initiator", "responder", "label", "prob", "packets", "wait"]
    assert [line.split()[0] for line in lines] == ["time", "22:13:21.000", "22:13:21.000"]
    assert lines[0].split() == header
    assert lines[1].split()[1:] == [
        *("TCP", "192.0.2.1:40000", "198.51.100.7:443", "web", "0.88", "10", "1000.0", "ms")
    ]


def test_flow_table_stops_at_its_limit():
    printed: list[str] = []
    table = FlowTable(printed.append, limit=3)
    table.write(columns_of(verdicts(Flow(), GONE)))
    assert not table.is_full
    table.write(columns_of(verdicts(Flow(), Flow())))
    assert table.is_full
    assert table.flows == 3
    assert len("\n".join(printed).splitlines()) == 1 + 3


def test_summary_by_hand():
    summary = Summary()
    summary.add(verdicts(Flow(probability=0.5), Flow(probability=1.0), MUTE))
    summary.add(verdicts(Flow(label=0, packets=(1, 2), bytes=(10, 20))))
    assert summary.flows == 4
    assert [line.split() for line in summary.lines(live=False)] == [
        ["class", "flows", "share", "mean", "prob", "packets", "bytes"],
        ["web", "2", "50.0", "%", "0.75", "24", "15,000"],
        ["ssh", "1", "25.0", "%", "0.88", "3", "30"],
        ["unknown", "1", "25.0", "%", "0.00", "1", "7,500"],
    ]


def test_summary_has_one_row_of_unknown_flows():
    summary = Summary()
    summary.add(verdicts(Flow(label=1), Flow(label=-1), classes=("ssh", "unknown")))
    assert [line.split()[:2] for line in summary.lines(live=False)[1:]] == [["unknown", "2"]]


@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_median_time_is_within_two_percent(n):
    waits = np.random.default_rng(n).integers(SECOND // 1000, 10 * SECOND, 2 * n + 1)
    summary = Summary()
    summary.add(verdicts(*(Flow(wait_ns=int(w), queue_ns=0, infer_ns=0) for w in waits)))
    expected_us = float(np.median(waits)) / 1000
    shown = summary.lines(live=True)[1].rsplit("%", 1)[1].split()
    value = float(shown[1]) * (1000 if shown[2] == "ms" else 1e6)
    assert value == pytest.approx(expected_us, rel=0.021, abs=60)


def test_milliseconds():
    assert milliseconds(1_234) == "1.2 ms"
    assert milliseconds(12_345_678) == "12.3 s"


def test_counters_are_named_in_words_and_zeros_left_out():
    counters = {"PACKETS_SEEN": 1234, "PACKETS_NOT_IP": 0, "PACKETS_FIRST_N": 7, "FLOWS_CREATED": 2}
    assert [line.split("  ")[0] for line in counter_lines(counters)] == [
        "packets by reason",
        "seen",
        "among the first N",
        "flows created",
    ]
