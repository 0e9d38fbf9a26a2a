"""Networks that look at bytes answer live traffic, each from the view that it declares."""

# ruff: noqa: F401, F811  (wire is a fixture, imported and then taken as an argument)

import json
import signal

import captures
import pytest

pytest.importorskip("torch", reason="networks need etcpipe[torch]")
import torch
from command import Running
from kernel_fixtures import Wire, wire

from etcpipe.gpu.views import VIEWS, schema_hash
from etcpipe.model_file import Description
from etcpipe.training.network_export import to_onnx
from etcpipe.zoo import ARCHS

pytestmark = pytest.mark.root

PORTS = (20000, 20001, 20002)


@pytest.mark.parametrize("name", ["datanet_mlp", "tscrnn", "fsnet", "traffic_moe_tiny"])
def test_a_network_answers_live_traffic(wire, tmp_path, name):
    arch = ARCHS[name]
    torch.manual_seed(1)
    schema = schema_hash(VIEWS[arch.view], arch.first_n)
    about = Description("net", ("a", "b"), arch.view, (), schema, arch.first_n)
    (tmp_path / "net.onnx").write_bytes(to_onnx(arch.build(2).eval(), about))
    options = ["-j", "-n", wire.near, "attach", wire.device, "--model", str(tmp_path / "net.onnx")]
    with Running(*options, folder=tmp_path) as etcpipe:
        etcpipe.until_attached()
        send_flows(wire, arch.first_n)
        etcpipe.until(lambda: etcpipe.stdout.count("\n") >= len(PORTS))
        assert etcpipe.signalled(signal.SIGINT) == 0
    events = [json.loads(line) for line in etcpipe.stdout.splitlines()]
    said = [event["etcpipe"] for event in events if event["dest_port"] == 4433]
    assert len(said) == len(PORTS)
    for one in said:
        assert one["packets_used"] == arch.first_n and one["model"].startswith("net@")
        assert one["label"] in ("a", "b") and 0.5 <= one["probability"] <= 1
    if arch.view in ("packet", "raw"):  # the same bytes, but for what is masked
        assert len({(one["label"], one["probability"]) for one in said}) == 1
    assert wire.leftovers() == []


def send_flows(wire: Wire, packets: int) -> None:
    with wire.raw() as sender:
        for port in PORTS:
            packet = captures.udp(100, src="10.77.0.2", dst="10.77.0.1", sport=port, dport=4433)
            for _ in range(packets):
                sender.send(captures.ether(packet))
