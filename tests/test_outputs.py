"""Verdicts as lines, CSV and Parquet."""

import csv
import json
import sys
from dataclasses import fields
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from verdicts import NOON, SECOND, Flow, verdicts

from etcpipe.errors import OutputError, UsageError
from etcpipe.outputs import Columns, columns_of, eve, format_of, open_output
from etcpipe.outputs.memo import SIZE, Memo

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((files("etcpipe") / "schema" / "verdict.schema.json").read_text())

SIX = Flow(a=("2001:db8::1", 51820), b=("2001:db8::2", 51820), protocol=17)
GONE = Flow(known=False, lost=2, source="timeout", reason="idle", packets_used=3)
MUTE = Flow(
    a=("192.0.2.1", 0),
    b=("192.0.2.2", 0),
    protocol=1,
    packets=(1, 0),
    ready_ns=0,
    label=-1,
    runner_up=-1,
    probability=0.0,
    packets_used=0,
    source="unknown",
    reason="end",
)
KINDS = {
    "plain": Flow(),
    "responder is end a": Flow(initiator=1),
    "IPv6": SIX,
    "VLAN with priority bits": Flow(vlan=0xA064),
    "closed": Flow(closed=True),
    "record gone": GONE,
    "nothing to judge": MUTE,
    "protocol without a name": Flow(protocol=200, a=("192.0.2.1", 0), b=("192.0.2.2", 0)),
    "degraded": Flow(source="degraded", reason="evicted"),
    "early": Flow(event="early", depth=1, packets_used=1),
    "revised": Flow(event="revised", stage=1, depth=30),
}


def line_of(flow: Flow, **options) -> dict:
    return eve.events(verdicts(flow), **options)[0]


def test_line_by_hand():
    assert line_of(Flow(), in_iface="eth0") == {
        "timestamp": "2023-11-14T22:13:21.000000+0000",
        "event_type": "verdict",
        "flow_id": 1,
        "in_iface": "eth0",
        "src_ip": "192.0.2.1",
        "src_port": 40000,
        "dest_ip": "198.51.100.7",
        "dest_port": 443,
        "proto": "TCP",
        "community_id": "1:lWOTJwBjzASkHgo+w0kukpG9z0M=",
        "flow": {
            "pkts_toserver": 5,
            "pkts_toclient": 7,
            "bytes_toserver": 500,
            "bytes_toclient": 7000,
            "start": "2023-11-14T22:13:20.000000+0000",
            "end": "2023-11-14T22:13:22.000000+0000",
            "state": "established",
            "reason": "depth",
        },
        "etcpipe": {
            "label": "web",
            "probability": 0.875,
            "runner_up": "ssh",
            "stage": 0,
            "depth": 10,
            "packets_used": 10,
            "source": "model",
            "model": "test@0123456789ab",
            "latency_us": {"wait": 1000000, "queue": 1, "infer": 12.3},
            "lost": 0,
        },
    }


@pytest.mark.parametrize("flow", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("device", [None, 'a"b\\é'])
def test_every_kind_of_line_follows_the_schema(flow, device):
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=checker)
    assert list(validator.iter_errors(line_of(flow, in_iface=device))) == []


def test_schema_is_itself_valid_and_refuses_what_is_not_a_verdict():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    line = line_of(Flow())
    for wrong in ({"flow_id": 2**53}, {"src_port": 65536}, {"timestamp": "now"}, {"extra": 1}):
        assert not validator.is_valid(line | wrong)


def test_lines_are_what_a_serialiser_would_write():
    lines = eve.lines(columns_of(verdicts(*KINDS.values(), classes=("ss\th", "é\"'")), "eth0"))
    assert len(lines) == len(KINDS)
    for line in lines:
        assert json.dumps(json.loads(line), separators=(",", ":")) == line


def test_source_is_the_initiator():
    line = line_of(Flow(initiator=1))
    assert (line["src_ip"], line["src_port"]) == ("198.51.100.7", 443)
    assert (line["dest_ip"], line["dest_port"]) == ("192.0.2.1", 40000)
    protocol, source, destination = eve.endpoints(verdicts(SIX, Flow(initiator=1)), 1)
    assert (protocol, source, destination) == (6, ("198.51.100.7", 443), ("192.0.2.1", 40000))


def test_vlan_is_the_id_without_priority():
    assert line_of(Flow(vlan=0xA064))["vlan"] == [100]
    assert "vlan" not in line_of(Flow())


def test_totals_are_absent_once_the_record_is_gone():
    assert line_of(GONE)["flow"] == {
        "start": "2023-11-14T22:13:21.000000+0000",
        "end": "2023-11-14T22:13:21.000000+0000",
        "reason": "idle",
    }


def test_a_flow_whose_record_is_gone_spans_its_packets():
    batch = verdicts(GONE, packets=3)
    batch.flows.packets["timestamp_ns"][0] = [NOON - SECOND, NOON, 0]
    batch.flows.packets["present"][0] = [1, 1, 0]
    flow = eve.events(batch)[0]["flow"]
    assert flow["start"] == "2023-11-14T22:13:19.000000+0000"
    assert flow["end"] == "2023-11-14T22:13:20.000000+0000"


def test_a_flow_with_nothing_to_judge_is_dated_by_its_end():
    line = line_of(MUTE)
    assert line["timestamp"] == line["flow"]["end"] == "2023-11-14T22:13:22.000000+0000"
    assert line["flow"]["state"] == "new"
    assert line["etcpipe"]["label"] == "unknown"
    assert "runner_up" not in line["etcpipe"]
    assert "community_id" not in line


def test_clock_offset_moves_all_times():
    line = line_of(Flow(), clock_offset_ns=3600 * SECOND + 1000)
    assert line["timestamp"] == "2023-11-14T23:13:21.000001+0000"
    assert line["flow"]["start"] == "2023-11-14T23:13:20.000001+0000"


def test_no_flows_are_no_lines(tmp_path):
    assert eve.lines(columns_of(verdicts())) == []
    with open_output(tmp_path / "none.jsonl") as output:
        output.write(columns_of(verdicts()))
    assert (tmp_path / "none.jsonl").read_bytes() == b""


@pytest.mark.parametrize("extension", ["jsonl", "json", "ndjson", "JSONL"])
def test_json_lines_file_holds_the_lines(tmp_path, extension):
    path = tmp_path / f"flows.{extension}"
    columns = columns_of(verdicts(*KINDS.values()))
    with open_output(path) as output:
        output.write(columns)
        output.write(columns)
    assert path.read_text().splitlines() == eve.lines(columns) * 2


def test_csv_by_hand(tmp_path):
    with open_output(tmp_path / "flows.csv") as output:
        output.write(columns_of(verdicts(Flow(vlan=7), GONE), "eth0"))
    first, gone = csv.DictReader((tmp_path / "flows.csv").read_text().splitlines())
    assert list(first) == [field.name for field in fields(Columns)]
    assert first["timestamp"] == "2023-11-14T22:13:21.000000Z"
    assert (first["vlan"], first["label"], first["probability"]) == ("7", "web", "0.875")
    assert (first["pkts_toclient"], first["wait_us"], first["in_iface"]) == ("7", "1000000", "eth0")
    assert (gone["vlan"], gone["pkts_toserver"], gone["state"]) == ("", "", "")


def test_parquet_holds_types_and_nulls(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with open_output(tmp_path / "flows.parquet") as output:
        for _ in range(2):
            output.write(columns_of(verdicts(Flow(vlan=7), GONE), "eth0"))
    table = parquet.read_table(tmp_path / "flows.parquet")
    assert table.column_names == [field.name for field in fields(Columns)]
    assert str(table.schema.field("timestamp").type) == "timestamp[us, tz=UTC]"
    assert table["timestamp"][0].as_py() == datetime(2023, 11, 14, 22, 13, 21, tzinfo=timezone.utc)
    assert table["vlan"].to_pylist() == [7, None, 7, None]
    assert table["bytes_toclient"].to_pylist() == [7000, None, 7000, None]
    assert table["src_ip"][0].as_py() == "192.0.2.1"


def test_parquet_of_an_interrupted_run_is_readable(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "flows.parquet"
    with pytest.raises(KeyboardInterrupt), open_output(path) as output:
        output.write(columns_of(verdicts(Flow())))
        raise KeyboardInterrupt
    assert parquet.read_table(path).num_rows == 1


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'etcpipe\[parquet\]'"):
        open_output(tmp_path / "flows.parquet")


@pytest.mark.parametrize("name", ["flows", "flows.txt", "flows.pcap"])
def test_unknown_extension_is_refused(name):
    with pytest.raises(UsageError, match=r"one of \.jsonl"):
        format_of(name)


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_full_disk_is_one_error(tmp_path, extension):
    if extension == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"full.{extension}"
    path.symlink_to("/dev/full")
    with (
        pytest.raises(OutputError, match=rf"cannot write {path}: No space left on device"),
        open_output(path) as output,
    ):
        output.write(columns_of(verdicts(Flow())))


def test_folder_that_is_not_there_is_one_error(tmp_path):
    path = tmp_path / "none" / "flows.jsonl"
    with pytest.raises(OutputError, match=rf"cannot write {path}: No such file or directory"):
        open_output(path)


def test_memo_makes_each_text_once_and_stays_bounded():
    made: list[int] = []
    memo = Memo(lambda value: made.append(value) or str(value))
    assert [memo[1], memo[1], memo[2]] == ["1", "1", "2"]
    assert made == [1, 2]
    for value in range(2 * SIZE):
        memo[value]
    assert len(memo) <= SIZE


def test_docs_name_every_column_and_are_current():
    import importlib.util

    spec = importlib.util.spec_from_file_location("events_table", ROOT / "tools/events_table.py")
    events_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(events_table)
    assert events_table.page() == (ROOT / "docs/events.md").read_text()
    columns = [column for _, column, _, _ in events_table.rows(SCHEMA) if column]
    assert columns == [field.name for field in fields(Columns)]
