"""What the parser can be asked for, as settings and as options."""

import json

import captures
import pytest
import tunnels
from captures import PSH, pcap, write
from command import fails, run

from etcpipe.capture import Capture
from etcpipe.errors import UsageError
from etcpipe.kernel.settings import TapSettings
from etcpipe.layout import CONSTANTS
from etcpipe.parsing import parse_bits, parse_key

TUNNEL = captures.ether(
    tunnels.ip(47, tunnels.gre(captures.tcp(b"x" * 40, PSH, "10.0.0.1", "10.0.0.2"), key=9)), [5]
)


def test_bits_are_the_parsers() -> None:
    assert parse_bits() == 0
    assert parse_bits(decap=True, key_vlan=True, key_tunnel=True) == 7
    assert TapSettings(key_vlan=True).parse == CONSTANTS["PARSE_KEY_VLAN"]


def test_key_names_its_parts() -> None:
    assert parse_key("vlan") == {"key_vlan": True}
    assert parse_key("tunnel,vlan") == {"key_tunnel": True, "key_vlan": True}
    with pytest.raises(UsageError, match="port"):
        parse_key("vlan,port")


@pytest.mark.parametrize("settings", [TapSettings, lambda **key: Capture([], **key)])
def test_a_tunnels_id_needs_decap(settings) -> None:
    with pytest.raises(UsageError, match="--decap"):
        settings(key_tunnel=True)


def flow_of(tmp_path, *options: str) -> tuple:
    """Return the ends of the one flow that classify finds, and its protocol."""
    path = write(tmp_path / "tunnel.pcap", pcap([(10**18, TUNNEL)]))
    line = json.loads(run("-j", "classify", *options, path).stdout)
    return line["src_ip"], line["dest_ip"], line["proto"]


def test_classify_follows_tunnels_where_asked(tmp_path) -> None:
    assert flow_of(tmp_path)[:2] == ("192.0.2.1", "192.0.2.2")
    inside = ("10.0.0.1", "10.0.0.2", "TCP")
    assert flow_of(tmp_path, "--decap") == inside
    assert flow_of(tmp_path, "--decap", "--key", "vlan,tunnel") == inside


def test_key_without_decap_says_what_to_do(tmp_path) -> None:
    path = write(tmp_path / "tunnel.pcap", pcap([(10**18, TUNNEL)]))
    assert "--decap" in fails("classify", "--key", "tunnel", path, status=2)
    assert "vlan, tunnel" in fails("classify", "--key", "mac", path, status=2)
