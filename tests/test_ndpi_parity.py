"""Flows, packets and bytes of real captures as ndpiReader counts them.

ndpiReader (Debian: libndpi-bin) is an independent tool with its own reader, parser and flow
table. The same rules hold for both where these settings are used:

- a flow is a five-tuple in both directions, VLAN tags left out (ndpiReader -I);
- flows of a capture never time out (ours: a very long idle timeout);
- a SYN after the end of a connection does not begin a new flow: FLOWS_CREATED counts
  tuples, FLOWS_RESTARTED what etcpipe counts on top;
- bytes are those of whole frames (ndpiReader calls them IP bytes; its Ethernet bytes add
  24 a packet for checksum, preamble and gap).

DIFFERENT lists the captures where the rules themselves differ, with our numbers.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from real_captures import real_captures

from etcpipe.capture import Capture

NDPI_READER = shutil.which("ndpiReader")
NEVER_S = 1e9
CAPTURES = real_captures()

# name: (flows, packets, bytes) of ours, and why ndpiReader has others.
DIFFERENT = {
    "anydesk.pcapng": ((7, 174, 46117), "discards a super-packet, whose IPv4 length says 0"),
    "dns.pcap": ((1, 3, 226), "looks into PPPoE"),
    "dns_fragmented.pcap": ((21, 66, 23170), "leaves out later fragments, which join their flow"),
    "fuzz-2006-09-29-28586.pcap": ((38, 118, 30457), "takes later fragments, other checks"),
    "ndpi_match_string_subprotocol__error.pcapng": (
        (1, 14, 3511),
        "discards a packet that is shorter than its IPv4 header says",
    ),
    "syslog.pcap": ((19, 88, 17363), "looks into PPPoE"),
    "tls_invalid_reads.pcap": (
        (3, 12, 2517),
        "discards a packet that is shorter than its IPv4 header says",
    ),
}


def ours(path: Path) -> tuple[int, int, int]:
    """Return flows, packets and bytes by the rules above."""
    capture = Capture([path], idle_timeout_s=NEVER_S)
    parts = [capture.ended() for _ in capture]
    states = [records["state"] for records in [*parts, capture.finish()]]
    packets = sum(int(state["packets"].sum()) for state in states)
    n_bytes = sum(int(state["bytes"].sum()) for state in states)
    return capture.counters["FLOWS_CREATED"], packets, n_bytes


def theirs(path: Path) -> tuple[int, ...]:
    """Return the same of ndpiReader."""
    assert NDPI_READER
    said = subprocess.run(
        [NDPI_READER, "-I", "-i", str(path)], capture_output=True, text=True, check=True
    ).stdout
    found = [
        re.search(rf"{name}:\s+(\d+)", said) for name in ("Unique flows", "IP packets", "IP bytes")
    ]
    return tuple(int(match.group(1)) if match else 0 for match in found)


@pytest.mark.slow
@pytest.mark.skipif(NDPI_READER is None, reason="no ndpiReader: install libndpi-bin")
@pytest.mark.skipif(not CAPTURES, reason="no captures of real traffic")
@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_same_totals_as_ndpi_reader(path):
    if path.name in DIFFERENT:
        expected, why = DIFFERENT[path.name]
        assert ours(path) == expected
        assert theirs(path) != expected, f"ndpiReader no longer differs: {why}"
    else:
        assert ours(path) == theirs(path)


def test_1kxun():
    """The capture 1kxun.pcap of nDPI's own tests, whose totals two other tools agree on."""
    found = [path for path in CAPTURES if path.name == "1kxun.pcap"]
    if not found:
        pytest.skip("1kxun.pcap is not here")
    assert ours(found[0]) == (197, 1723, 2_527_774)


@pytest.mark.skipif(not CAPTURES, reason="no captures of real traffic")
def test_real_captures_are_read_whole():
    for path in CAPTURES:
        capture = Capture([path])
        for batch in capture:
            assert (batch.captured <= batch.wire_len).all()
        counters = capture.counters
        refused = [counters[f"PACKETS_{name}"] for name in ("NOT_IP", "MALFORMED", "FRAGMENT")]
        assert counters["PACKETS_TRACKED"] + sum(refused) == counters["PACKETS_SEEN"], path
        assert capture.warnings == [], path
