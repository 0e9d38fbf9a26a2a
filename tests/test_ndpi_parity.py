"""Flows, packets and bytes of real captures as ndpiReader counts them.

ndpiReader (Debian: libndpi-bin) is an independent tool with its own reader, parser and flow
table. The same rules hold for both where these settings are used:

- a flow is a five-tuple in both directions, VLAN tags left out (ndpiReader -I);
- flows of a capture never time out (ours: a very long idle timeout);
- a SYN after the end of a connection does not begin a new flow: FLOWS_CREATED counts
  tuples, FLOWS_RESTARTED what etcpipe counts on top;
- bytes are those of whole frames (ndpiReader calls them IP bytes; its Ethernet bytes add
  24 a packet for checksum, preamble and gap).

DIFFERENT lists the captures where the rules themselves differ, with our numbers, and TUNNELS
those where ndpiReader looks into a tunnel unasked and etcpipe does with decap. Each reason
was found in the capture with tcpdump. All of nDPI's captures: tools/ndpi_captures.
"""

import hashlib
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

# What ndpiReader does otherwise.
SHORT = "discards a packet that is shorter than its IPv4 header says"
SUPER = "discards a super-packet, whose IPv4 length says 0"
FRAGMENTS = "leaves out later fragments, which join their flow"
CAPTURED = "counts the bytes that were captured, not those on the wire"
TCP_HEADER = "takes a TCP header that says it has less than 20 bytes, mostly with ports 0"
ETHERTYPE = "takes frames of foreign ethertypes for IPv4"
PPPOE, IP_IN_IP, MPLS = (f"looks into {what}" for what in ("PPPoE", "IP in IP", "MPLS"))

# name: (flows, packets, bytes) of ours, and why ndpiReader has others.
DIFFERENT = {
    "6in4tunnel.pcap": ((1, 127, 40293), IP_IN_IP),
    "6in6tunnel.pcap": ((2, 2, 212), IP_IN_IP),
    "BGP_redist.pcap": ((1, 1, 159), MPLS),
    "ajp.pcap": ((2, 26, 4446), f"{ETHERTYPE}: FabricPath's header begins with a 4"),
    "anydesk.pcapng": ((7, 174, 46117), SUPER),
    "anydesk-2.pcap": ((4, 2521, 2148884), SUPER),
    "badpackets.pcap": ((93, 93, 49526), SHORT),
    "dns.pcap": ((1, 3, 226), PPPOE),
    "dns_fragmented.pcap": ((21, 66, 23170), FRAGMENTS),
    "dnscrypt-v1-and-resolver-pings.pcap": ((245, 608, 320842), FRAGMENTS),
    "fuzz-2006-06-26-2594.pcap": ((249, 577, 86922), f"{ETHERTYPE}; {SHORT}; {TCP_HEADER}"),
    "fuzz-2006-09-29-28586.pcap": ((38, 118, 30457), f"{ETHERTYPE}; {SHORT}; {TCP_HEADER}"),
    "fuzz-2020-02-16-11740.pcap": ((75, 306, 145227), f"{ETHERTYPE}; {SHORT}"),
    "fuzz-2021-10-13.pcap": ((0, 0, 0), TCP_HEADER),
    "ip_fragmented_garbage.pcap": ((6, 8742, 436900), f"{FRAGMENTS}; {TCP_HEADER}"),
    "ja3_lots_of_cipher_suites_2_anon.pcap": ((1, 27, 7018), CAPTURED),
    "kerberos_fuzz.pcapng": ((0, 0, 0), TCP_HEADER),
    "lab-601.pcap": ((129, 6218, 4082297), f"{SHORT}: 128 bytes of each were kept"),
    "ndpi_match_string_subprotocol__error.pcapng": ((1, 14, 3511), SHORT),
    "reasm_crash_anon.pcapng": ((1, 208, 20647), f"{SHORT}; {TCP_HEADER}"),
    "reasm_segv_anon.pcapng": ((1, 82, 78052), CAPTURED),
    "syslog.pcap": ((19, 88, 17363), PPPOE),
    "tls_invalid_reads.pcap": ((3, 12, 2517), SHORT),
}
TUNNELS = [
    path for path in CAPTURES if DIFFERENT.get(path.name, ("", ""))[1] in (PPPOE, IP_IN_IP, MPLS)
]

# Files that end in the middle of a packet's header, and what libpcap says of it.
DAMAGED = {
    "fuzz-2021-10-13.pcap": "truncated dump file; tried to read 16 header bytes, only got 2",
}

# 1kxun.pcap by its digest: that of nDPI 4.2, else the one of its later versions.
KXUN_4_2 = "aff1eb0665af15645d859c72412618ffee399a4434a662feeafd5f731faf3478"
KXUN_TOTALS = {True: (129, 1439, 629_825), False: (197, 1723, 2_527_774)}


def ours(path: Path, decap: bool = False) -> tuple[int, int, int]:
    """Return flows, packets and bytes by the rules above."""
    capture = Capture([path], idle_timeout_s=NEVER_S, decap=decap)
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


@pytest.mark.skipif(NDPI_READER is None, reason="no ndpiReader: install libndpi-bin")
@pytest.mark.skipif(not TUNNELS, reason="no captures of tunnels")
@pytest.mark.parametrize("path", TUNNELS, ids=lambda path: path.name)
def test_same_totals_inside_tunnels(path):
    assert ours(path, decap=True) == theirs(path)


def test_1kxun():
    """The capture 1kxun.pcap of nDPI's own tests, whose totals two other tools agree on."""
    found = [path for path in CAPTURES if path.name == "1kxun.pcap"]
    if not found:
        pytest.skip("1kxun.pcap is not here")
    for path in found:
        is_4_2 = hashlib.sha256(path.read_bytes()).hexdigest() == KXUN_4_2
        assert ours(path) == KXUN_TOTALS[is_4_2]


@pytest.mark.skipif(not CAPTURES, reason="no captures of real traffic")
def test_real_captures_are_read_whole():
    for path in CAPTURES:
        capture = Capture([path])
        for batch in capture:
            assert (batch.captured <= batch.wire_len).all()
        counters = capture.counters
        refused = [counters[f"PACKETS_{name}"] for name in ("NOT_IP", "MALFORMED", "FRAGMENT")]
        assert counters["PACKETS_TRACKED"] + sum(refused) == counters["PACKETS_SEEN"], path
        damage = [DAMAGED[path.name]] if path.name in DAMAGED else []
        assert [text.partition(": read in part: ")[2] for text in capture.warnings] == damage, path
