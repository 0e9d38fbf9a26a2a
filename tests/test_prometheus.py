"""Metrics: their names and values, the port and the file, and what is in the way of them."""

import json
import os
import re
import signal
import socket
import time
import urllib.request
from contextlib import closing

import pytest
from command import ROOT, Running
from reports import report
from test_cli_live import attached, send_flows
from waiting import free_port, until

from etcpipe.errors import UsageError
from etcpipe.kernel import first_packets
from etcpipe.kernel.first_packets import STAGE_OF
from etcpipe.layout import PACKET_COUNTERS
from etcpipe.outputs.exporter import Port, TextFile
from etcpipe.outputs.targets import Targets
from etcpipe.ring import STATISTICS

prometheus = pytest.importorskip("etcpipe.outputs.prometheus")
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402


def samples(text: str) -> dict[str, float]:
    """Return values by name and labels, as `name{a="b"}`, read by Prometheus' own parser."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def rendered(*reports) -> dict[str, float]:
    return samples(prometheus.render(reports).decode())


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def is_served(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "sample, value",
    [
        ('etcpipe_packets_total{dev="eth0"}', 1000),
        ('etcpipe_passed_packets_total{dev="eth0",reason="not_ip"}', 7),
        ('etcpipe_mirrored_packets_total{dev="eth0"}', 28),
        ('etcpipe_settled_packets_total{dev="eth0"}', 8),
        (
            'etcpipe_dropped_packets_total{dev="eth0",reason="packets_clone_failed",stage="clone"}',
            2,
        ),
        ('etcpipe_dropped_packets_total{dev="eth0",reason="ring_rx_ring_full",stage="ring"}', 1),
        ('etcpipe_dropped_packets_total{dev="eth0",reason="mirror_dropped",stage="mirror"}', 0),
        ('etcpipe_flows{dev="eth0"}', 3),
        ('etcpipe_flows_created_total{dev="eth0"}', 5),
        ('etcpipe_flows_ended_total{dev="eth0",reason="idle"}', 2),
        ('etcpipe_verdicts_total{class="web",dev="eth0"}', 1),
        ('etcpipe_verdicts_total{class="unknown",dev="eth0"}', 1),
        ('etcpipe_verdicts_by_source_total{dev="eth0",source="model"}', 2),
        ('etcpipe_verdicts_by_stage_total{dev="eth0",stage="0"}', 3),
        ('etcpipe_verdict_events_total{dev="eth0",event="verdict"}', 3),
        ('etcpipe_verdict_latency_seconds_count{dev="eth0"}', 3),
        ('etcpipe_verdict_latency_seconds_bucket{dev="eth0",le="0.0001"}', 1),
        ('etcpipe_verdict_latency_seconds_bucket{dev="eth0",le="2.5"}', 3),
        ('etcpipe_verdict_latency_seconds_sum{dev="eth0"}', 2 * (1 + 1.5e-6 + 12.34e-6)),
        ('etcpipe_stage_duration_seconds_bucket{dev="eth0",le="1.0",stage="wait"}', 3),
        ('etcpipe_verdict_probability_bucket{dev="eth0",le="0.6"}', 1),
        ('etcpipe_batch_flows_bucket{dev="eth0",le="1.0"}', 1),
        (
            'etcpipe_model_info{dev="eth0",engine="ONNX Runtime",model="test",'
            'version="0123456789ab"}',
            1,
        ),
        ('etcpipe_output_dropped_events_total{dev="eth0",output="flows.jsonl",reason="enospc"}', 4),
        ('etcpipe_output_up{dev="eth0",output="flows.jsonl"}', 0),
    ],
)
def test_sample_by_hand(sample, value):
    assert rendered(report())[sample] == pytest.approx(value)


def test_no_label_is_an_address_and_names_follow_the_conventions():
    text = prometheus.render([report()]).decode()
    for line in text.splitlines():
        if line.startswith("etcpipe_"):
            assert not re.search(r"\d+\.\d+\.\d+\.\d+", line)
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.name.startswith(("etcpipe_", "process_"))


def test_losses_are_counters_that_there_are():
    elsewhere = {"MIRROR_DROPPED", *(f"RING_{name.upper()}" for name in STATISTICS)}
    assert set(STAGE_OF) <= {*PACKET_COUNTERS, *elsewhere}
    counters = {"PACKETS_SEEN": 9, "PACKETS_CLONE_FAILED": 2, "RING_RX_DROPPED": 1}
    lost = {"PACKETS_CLONE_FAILED": 2, "RING_RX_DROPPED": 1}
    assert first_packets.lost({**counters, "MIRROR_DROPPED": 0}) == lost


def test_programs_are_there_where_the_kernel_counts_them():
    assert not [name for name in rendered(report(programs={})) if "bpf" in name]
    found = rendered(report(programs={"tc_track": {"runs": 4, "ns": 2_000}}))
    labels = '{dev="eth0",program="tc_track"}'
    assert found[f"etcpipe_bpf_runs_total{labels}"] == 4
    assert found[f"etcpipe_bpf_run_seconds_total{labels}"] == pytest.approx(2e-6)


def test_devices_of_one_name_are_told_apart():
    found = rendered(report(), report(netns=7))
    assert found['etcpipe_packets_total{dev="eth0@7"}'] == 1000
    assert found['etcpipe_packets_total{dev="eth0@4026531840"}'] == 1000


def test_no_taps_are_no_taps():
    assert 'etcpipe_build_info{version="0.1.0"}' in rendered()


def test_port_serves_what_is_new_at_each_scrape():
    seen = [report()]
    with Port("prometheus:", ("127.0.0.1", 0), lambda: seen) as port:
        until(lambda: port.error is None)
        assert 'etcpipe_packets_total{dev="eth0"} 1000.0' in scrape(port.address[1])
        seen[:] = [report(counters={"PACKETS_SEEN": 1001})]
        assert 'etcpipe_packets_total{dev="eth0"} 1001.0' in scrape(port.address[1])


def test_port_that_is_taken_is_one_line_and_served_once_it_is_free(caplog, monkeypatch):
    monkeypatch.setattr("etcpipe.outputs.exporter.RETRY_S", 0.02)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = taken.getsockname()
        with Port("prometheus://here", address, lambda: [report()]) as port:
            until(lambda: port.error == "Address already in use")
            time.sleep(0.2)  # several tries
            taken.close()
            until(lambda: port.error is None)
            assert "etcpipe_packets_total" in scrape(address[1])
    assert [record.getMessage() for record in caplog.records] == [
        "prometheus://here: Address already in use; trying again until it works",
        "prometheus://here: works again",
    ]


def test_client_that_says_nothing_does_not_keep_others_waiting():
    with Port("prometheus:", ("127.0.0.1", 0), lambda: [report()]) as port:
        until(lambda: port.error is None)
        with closing(socket.create_connection(port.address)):
            assert "etcpipe_packets_total" in scrape(port.address[1])


def test_text_file_is_whole_readable_and_gone_at_the_end(tmp_path):
    path = tmp_path / "etcpipe.prom"
    with TextFile("prometheus:file", path, lambda: [report()]) as file:
        until(lambda: file.error is None)
        assert samples(path.read_text())['etcpipe_packets_total{dev="eth0"}'] == 1000
    assert os.listdir(tmp_path) == []


def test_text_file_in_a_folder_that_is_not_there_is_one_line(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("etcpipe.outputs.exporter.RETRY_S", 0.02)
    folder = tmp_path / "none"
    with TextFile("prometheus:file", folder / "etcpipe.prom", lambda: [report()]) as file:
        until(lambda: file.error == "No such file or directory")
        folder.mkdir()
        until(lambda: file.error is None)
    assert len(caplog.records) == 2


def test_address_that_is_none_is_refused():
    with pytest.raises(UsageError, match="the port is a number from 0 to 65535"):
        Targets(["prometheus://127.0.0.1:99999"])


def test_without_the_library_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "etcpipe.outputs.prometheus", None)
    monkeypatch.delattr("etcpipe.outputs.prometheus", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'etcpipe\[metrics\]'"):
        Targets(["prometheus://127.0.0.1"])


def test_dashboard_asks_for_metrics_that_there_are():
    dashboard = json.loads((ROOT / "etcpipe/web/grafana.json").read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    names = {sample.split("{")[0] for sample in rendered(report())}
    asked = set(re.findall(r"\b(?:etcpipe|process)_\w+", " ".join(expressions)))
    assert len(expressions) >= 8
    assert asked <= names, asked - names
    assert {panel["id"] for panel in dashboard["panels"]} == set(
        range(1, len(dashboard["panels"]) + 1)
    )


def test_docs_name_every_metric():
    page = (ROOT / "docs/outputs.md").read_text()
    families = text_string_to_metric_families(prometheus.render([report()]).decode())
    names = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    ours = {name for name in names if name.startswith("etcpipe_")}
    assert ours - set(re.findall(r"`(etcpipe_\w+)`", page)) == set()


@pytest.mark.root
def test_metrics_of_a_running_attach(wire, tmp_path):
    port = free_port()
    with attached(wire, tmp_path, "-o", f"prometheus://127.0.0.1:{port}") as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, 3)
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= 3)
        etcpipe.until(lambda: is_served(port))
        found = samples(scrape(port))
        assert etcpipe.signalled(signal.SIGINT) == 0
    verdicts = [n for name, n in found.items() if name.startswith("etcpipe_verdicts_total")]
    assert sum(verdicts) >= 3
    assert found[f'etcpipe_packets_total{{dev="{wire.device}"}}'] >= 30
    assert wire.leftovers() == []


@pytest.mark.root
def test_port_that_is_taken_does_not_keep_attach_from_work(wire, tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        target = f"prometheus://127.0.0.1:{taken.getsockname()[1]}"
        with attached(wire, tmp_path, "-o", target) as etcpipe:
            etcpipe.until_attached()
            send_flows(wire, 1)
            etcpipe.until(lambda: "4433" in etcpipe.stdout and "already in use" in etcpipe.stderr)
            assert etcpipe.signalled(signal.SIGINT) == 0
    assert isinstance(etcpipe, Running)
    assert wire.leftovers() == []
