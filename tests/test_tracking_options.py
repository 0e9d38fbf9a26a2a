"""Options on which packets make flows: filter, sample, timeouts, counting, flow records."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import json
import signal
from importlib.resources import files

import captures
import jsonschema
import numpy as np
import pytest
from captures import ACK, SYN, ether
from command import fails, run
from kernel_fixtures import Wire, wire
from test_cli_live import attached, send_flows

from etcpipe import timeouts
from etcpipe.errors import UsageError
from etcpipe.layout import FLOW_RECORD
from etcpipe.outputs import flows as flow_lines

SCHEMA = json.loads((files("etcpipe") / "schema" / "flow.schema.json").read_text())


def test_timeouts_are_named_seconds() -> None:
    assert timeouts.parse("idle=60,establish=0.5") == {
        "idle_timeout_s": 60.0,
        "establish_timeout_s": 0.5,
    }


@pytest.mark.parametrize("text", ["idle", "idle=soon", "lazy=3", "idle=3,,"])
def test_other_timeouts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="timeout"):
        timeouts.parse(text)


def test_a_sample_is_a_ratio_with_or_without_a_seed() -> None:
    assert timeouts.parse_sample("1/100") == {"sample": 100, "sample_seed": 0}
    assert timeouts.parse_sample("1/8:7") == {"sample": 8, "sample_seed": 7}


@pytest.mark.parametrize("text", ["100", "2/3", "1/x", "1/5:y", "1/"])
def test_other_samples_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="1/K"):
        timeouts.parse_sample(text)


def capture_of_ports(folder, ports: range) -> str:
    frames = [(10**9 + port, ether(captures.udp(b"x" * 50, sport=port))) for port in ports]
    return captures.write(folder / "a.pcap", captures.pcap(frames))


def test_classify_takes_a_sample_and_counts_the_rest(tmp_path) -> None:
    path = str(capture_of_ports(tmp_path, range(1000, 1400)))
    lines = run("-j", "classify", path, "--sample", "1/4").stdout.splitlines()
    assert 50 < len(lines) < 150
    other = run("-j", "classify", path, "--sample", "1/4:1").stdout.splitlines()
    ports = [{json.loads(line)["src_port"] for line in some} for some in (lines, other)]
    assert ports[0] != ports[1]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--sample", "1/0"], "sample 0"),
        (["--sample", "half"], "write 1/K"),
        (["--timeouts", "idle=0"], "idle timeout 0"),
        (["--timeouts", "active=5"], "active"),
        (["--timeouts", "sleep=5"], "sleep=5"),
        (["--counting", "bytes"], "--counting"),
    ],
)
def test_classify_refuses_wrong_options_in_one_line(tmp_path, options, complaint) -> None:
    path = str(capture_of_ports(tmp_path, range(1, 3)))
    assert complaint in fails("classify", path, *options, status=2)


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--filter", "tcp prot 80"], "syntax error"),
        (["--sample", "1/0"], "sample"),
        (["--timeouts", "idle=0"], "idle_timeout_s"),
    ],
)
def test_attach_refuses_wrong_options_and_leaves_nothing(wire, options, complaint) -> None:
    line = fails("-n", wire.near, "attach", wire.device, *options, status=2)
    assert complaint in line
    assert wire.leftovers() == []


@pytest.mark.root
def test_a_filter_is_set_shown_changed_and_cleared_while_traffic_flows(wire, tmp_path) -> None:
    with attached(wire, tmp_path, "--filter", "dst port 4433") as etcpipe:
        etcpipe.until_attached()
        assert run("-n", wire.near, "filter", wire.device).stdout == "dst port 4433\n"
        send_flows(wire, 2, first_port=20000)
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 2)
        run("-n", wire.near, "filter", wire.device, "dst", "port", "99")
        send_flows(wire, 2, first_port=21000)
        (tap,) = json.loads(run("-j", "-n", wire.near, "show", wire.device).stdout)
        assert tap["filter"] == "dst port 99"
        assert tap["counters"]["PACKETS_FILTERED"] >= 20
        run("-n", wire.near, "filter", wire.device, "--clear")
        send_flows(wire, 2, first_port=22000)
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 4)
        fails("-n", wire.near, "filter", wire.device, "port port", status=2)
        assert etcpipe.signalled(signal.SIGINT) == 0
    ports = sorted(json.loads(line)["src_port"] for line in etcpipe.stdout.splitlines())
    ours = [port for port in ports if port >= 20000 and port < 23000]
    assert ours == [20000, 20001, 22000, 22001]
    assert wire.leftovers() == []


@pytest.mark.root
def test_a_filter_needs_a_tap(wire) -> None:
    line = fails("-n", wire.near, "filter", wire.device, "udp", status=1)
    assert line == f"{wire.device}: etcpipe is not attached"


@pytest.mark.root
def test_flows_are_reported_as_they_end_and_the_rest_at_the_end(wire, tmp_path) -> None:
    target = tmp_path / "flows.jsonl"
    options = ("--flows", str(target), "--timeouts", "establish=0.2,idle=60")
    with attached(wire, tmp_path, *options, "--filter", "host 10.77.0.2") as etcpipe:
        etcpipe.until_attached()
        with wire.raw() as sender:
            for flags, port in ((SYN, 1111), (ACK, 2222)):
                ends = dict(src="10.77.0.2", dst="10.77.0.1", sport=port, dport=80)
                sender.send(ether(captures.tcp(b"", flags, **ends)))
        etcpipe.until(lambda: target.exists() and target.read_text().count("\n") >= 1)
        assert etcpipe.signalled(signal.SIGINT) == 0
    events = [json.loads(line) for line in target.read_text().splitlines()]
    for event in events:
        jsonschema.Draft202012Validator(SCHEMA).validate(event)
    reasons = {e["src_port"]: e["flow"]["reason"] for e in events if e["proto"] == "TCP"}
    assert {port: reasons[port] for port in (1111, 2222)} == {1111: "establish", 2222: "source"}


def test_flow_lines_say_what_a_record_holds() -> None:
    records = np.zeros(1, FLOW_RECORD)
    key, state = records["key"][0], records["state"][0]
    key["a_addr"][-4:], key["b_addr"][-4:] = [10, 0, 0, 1], [10, 0, 0, 2]
    key["a_port"], key["b_port"], key["protocol"], key["ip_version"] = 1000, 443, 6, 4
    key["zone"] = 7
    state["flow_id"], state["initiator"], state["status"] = 5, 1, 1
    state["first_ns"], state["last_ns"] = 2_000_000_000, 5_500_000_000
    state["packets"], state["bytes"] = [3, 4], [300, 400]
    state["counted"], state["lost"] = 4, 1
    records["reason"] = 1
    (line,) = flow_lines.lines(records, 'e"th0', 1_000_000_000, 9_000_000_000)
    event = json.loads(line)
    jsonschema.Draft202012Validator(SCHEMA).validate(event)
    assert event.pop("community_id").startswith("1:")
    assert event == {
        "timestamp": "1970-01-01T00:00:09.000000+0000",
        "event_type": "flow",
        "flow_id": 5,
        "in_iface": 'e"th0',
        "src_ip": "10.0.0.2",
        "src_port": 443,
        "dest_ip": "10.0.0.1",
        "dest_port": 1000,
        "proto": "TCP",
        "vlan": [7],
        "flow": {
            "pkts_toserver": 3,
            "pkts_toclient": 4,
            "bytes_toserver": 300,
            "bytes_toclient": 400,
            "start": "1970-01-01T00:00:03.000000+0000",
            "end": "1970-01-01T00:00:06.500000+0000",
            "age": 3,
            "state": "closed",
            "reason": "closed",
        },
        "etcpipe": {"counted": 4, "lost": 1},
    }
