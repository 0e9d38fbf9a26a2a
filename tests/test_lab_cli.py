"""etcpipe lab, as typed."""

import json

import pytest
from click.testing import CliRunner

from etcpipe.cli.lab import lab
from etcpipe.errors import LabError
from etcpipe.lab import KINDS, missing, read_truth

CHEAP = "dns_encrypted"


def invoke(*words: str, **options):
    return CliRunner().invoke(lab, list(words), catch_exceptions=False, **options)


def test_list_names_every_kind():
    lines = invoke("list").output.splitlines()
    assert [line.split()[0] for line in lines] == list(KINDS)


def test_list_as_json_tells_what_is_missing():
    rows = json.loads(invoke("list", "-j").output)
    assert [row["kind"] for row in rows] == list(KINDS)
    assert all(row["missing"] == missing(row["kind"]) for row in rows)


def test_unknown_kind_is_an_error():
    with pytest.raises(LabError, match="telnet"):
        invoke("run", "--kind", "telnet")


@pytest.mark.parametrize("words", [("--sessions", "0"), ("--speed", "0"), ("--rate", "-1")])
def test_values_out_of_range_are_wrong_usage(words):
    assert invoke("run", *words).exit_code == 2


@pytest.mark.root
def test_run_as_json_reports_each_session():
    if missing(CHEAP):
        pytest.skip(f"needs {missing(CHEAP)}")
    done = invoke("run", "--kind", CHEAP, "--sessions", "2", "--speed", "10", obj={"json": True})
    report = json.loads(done.stdout)
    assert [(s["label"], s["ok"]) for s in report["sessions"]] == [(CHEAP, True)] * 2
    assert done.exit_code == 0


@pytest.mark.root
def test_record_writes_the_capture_and_its_labels(tmp_path):
    if missing(CHEAP):
        pytest.skip(f"needs {missing(CHEAP)}")
    path = tmp_path / "day.pcap"
    done = invoke("record", str(path), "--kind", CHEAP, "--sessions", "1", "--speed", "10")
    assert done.exit_code == 0
    assert {row.label for row in read_truth(tmp_path / "labels.csv")["day.pcap"]} == {CHEAP}
    assert path.stat().st_size > 24
