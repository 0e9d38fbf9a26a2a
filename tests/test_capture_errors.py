"""Bad capture files: one clear line, never a crash, and nothing lost that could be read."""

import os
import struct
import subprocess
import sys

import captures
import pytest
from captures import ether, pcap, pcapng, tcp, udp, write
from hypothesis import given, settings
from hypothesis import strategies as st

from etcpipe.capture import Capture
from etcpipe.errors import CaptureError, UsageError
from etcpipe.layout import PACKET_COUNTERS

START = 1_700_000_000 * 10**9
PACKETS = [(START + i, ether(udp(30 + i, sport=1000 + i))) for i in range(3)]


def read(path, **arguments):
    """Return (capture, how many packets it saw) after reading it all."""
    capture = Capture([path], **arguments)
    rows = sum(len(batch) for batch in capture)
    assert rows == capture.counters["PACKETS_FIRST_N"]
    return capture, capture.counters["PACKETS_SEEN"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xd4", "not a pcap or pcapng file"),
        (b"hello world, this is no capture at all", "not a pcap or pcapng file"),
        (b"\x7fELF" + bytes(100), "not a pcap or pcapng file"),
        (pcap([])[:20], "not a pcap or pcapng file: truncated"),
        (pcapng([])[:30], "not a pcap or pcapng file: truncated"),
        (pcap([], 105), r"link type 105 \(IEEE802_11\) is not supported: Ethernet,"),
        (pcapng([], 195), r"link type 195 .* is not supported"),
        (pcap([], 60_000), r"link type 60000 \(unknown\) is not supported"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = write(tmp_path / "a.pcap", content)
    with pytest.raises(CaptureError, match=f"^{path}: {message}") as caught:
        Capture([path])
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(CaptureError, match=r"nowhere\.pcap: no such file or directory$"):
        Capture([tmp_path / "nowhere.pcap"])


def test_directory(tmp_path):
    with pytest.raises(CaptureError, match=r": is a directory$"):
        Capture([tmp_path])


def test_second_file_is_checked_before_the_first_is_read(tmp_path):
    good = write(tmp_path / "a.pcap", pcap(PACKETS))
    with pytest.raises(CaptureError, match=r"b\.pcap"):
        Capture([good, tmp_path / "b.pcap"])


@pytest.fixture
def no_privileges():
    """Run the test as nobody if it would run as root, who may read anything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_no_permission(tmp_path, no_privileges):
    path = tmp_path / "a.pcap"
    if os.getuid():
        write(path, pcap(PACKETS)).chmod(0)
    with pytest.raises(CaptureError, match=r"a\.pcap: permission denied$"):
        Capture([path])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(first_n=0), "first_n 0: 1 to 64 packets"),
        (dict(first_n=65), "first_n 65: 1 to 64 packets"),
        (dict(count="most"), "count 'most': one of payload, all, non_ack"),
        (dict(idle_timeout_s=0), "idle timeout 0"),
        (dict(idle_timeout_s=float("nan")), "idle timeout nan"),
        (dict(max_flows=0), "max_flows 0"),
        (dict(filter="tcp prot 80"), "filter 'tcp prot 80': "),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        Capture([write(tmp_path / "a.pcap", pcap(PACKETS))], **arguments)
    assert "\n" not in str(caught.value)


def test_closed_standard_input():
    code = "from etcpipe.capture import Capture; import os; os.close(0); list(Capture(['-']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "CaptureError: standard input: bad file descriptor" in done.stderr


def run_from_stdin(content):
    code = (
        "from etcpipe.capture import Capture\n"
        "from etcpipe.errors import CaptureError\n"
        "try:\n"
        "    print(sum(len(batch) for batch in Capture(['-'])))\n"
        "except CaptureError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True)
    assert done.stderr == b""
    return done.stdout.decode()


def test_standard_input():
    assert run_from_stdin(pcap(PACKETS)) == "3\n"


def test_nothing_on_standard_input():
    assert run_from_stdin(b"").startswith("standard input: not a pcap or pcapng file: truncated")


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_file_cut_at_any_byte_is_used_up_to_there(tmp_path, make):
    whole = make(PACKETS)
    ends = [len(make(PACKETS[:n])) for n in range(4)]
    for length in range(ends[0], len(whole) + 1):
        complete = sum(end <= length for end in ends) - 1
        capture, seen = read(write(tmp_path / "a", whole[:length]))
        assert seen == complete
        assert len(capture.warnings) == (length not in ends)
        assert all("read in part: truncated" in line for line in capture.warnings)


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_header_cut_at_any_byte_is_refused(tmp_path, make):
    for length in range(1, len(make([]))):
        try:
            capture = Capture([write(tmp_path / "a", make(PACKETS)[:length])])
        except CaptureError as error:
            assert "\n" not in str(error)
        else:
            pytest.fail(f"{length} bytes were taken: {capture.counters}")


def test_damage_in_the_middle_is_reported(tmp_path):
    whole = bytearray(pcap(PACKETS))
    second = len(pcap(PACKETS[:1]))
    whole[second + 8 : second + 12] = struct.pack("<I", 0x7FFFFFFF)  # captured length
    capture, seen = read(write(tmp_path / "a", bytes(whole)))
    assert seen == 1
    (line,) = capture.warnings
    assert line.startswith(f"{tmp_path}/a: read in part: ")


def test_other_files_are_read_after_a_damaged_one(tmp_path):
    damaged = write(tmp_path / "a", pcap(PACKETS)[:-1])
    good = write(tmp_path / "b", pcap(PACKETS))
    capture = Capture([damaged, good])
    assert sum(len(batch) for batch in capture) == 5
    assert len(capture.warnings) == 1


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        pytest.param(b"", "PACKETS_MALFORMED", id="nothing"),
        pytest.param(bytes(13), "PACKETS_MALFORMED", id="no Ethernet header"),
        pytest.param(bytes(12) + b"\x08\x06" + bytes(28), "PACKETS_NOT_IP", id="ARP"),
        pytest.param(ether(tcp(5))[:40], "PACKETS_MALFORMED", id="cut TCP header"),
        pytest.param(
            ether(captures.ip(17, bytes(64), fragment=100)), "PACKETS_FRAGMENT", id="later fragment"
        ),
        pytest.param(
            ether(captures.ip(17, bytes(64), fragment=0x2000)), "PACKETS_TRACKED", id="first one"
        ),
        pytest.param(ether(captures.ip(1, bytes(8))), "PACKETS_TRACKED", id="ICMP"),
    ],
)
def test_where_packets_are_counted(tmp_path, frame, counter):
    capture, seen = read(write(tmp_path / "a", pcap([(START, frame)])))
    assert seen == 1
    assert capture.counters[counter] == 1


@pytest.mark.parametrize(
    ("wire_len", "counter"), [(1 << 20, "PACKETS_TRACKED"), ((1 << 20) + 1, "PACKETS_MALFORMED")]
)
def test_length_that_no_link_carries(tmp_path, wire_len, counter):
    file = write(tmp_path / "a", pcap([(START, ether(udp(20)), wire_len)]))
    capture, seen = read(file)
    assert seen == 1
    assert capture.counters[counter] == 1


@pytest.mark.parametrize("link_type", [0, 1, 9, 50, 101, 104, 108, 113, 276])
def test_every_cut_of_a_frame_is_counted_once(tmp_path, link_type):
    frame = captures.link(tcp(20, src=captures.CLIENT6, dst=captures.SERVER6), link_type)
    cuts = [(START, frame[:n], len(frame)) for n in range(len(frame) + 1)]
    capture, seen = read(write(tmp_path / "a", pcap(cuts, link_type)))
    assert seen == len(cuts)
    reasons = ("PACKETS_TRACKED", "PACKETS_NOT_IP", "PACKETS_MALFORMED", "PACKETS_FRAGMENT")
    assert sum(capture.counters[name] for name in reasons) == seen
    # all of the link, IPv6 and TCP headers must be there, none of the payload
    assert capture.counters["PACKETS_TRACKED"] == 21


def accounted(capture):
    """Is every packet counted under exactly one outcome?"""
    outcomes = PACKET_COUNTERS[1 : PACKET_COUNTERS.index("PACKETS_FIRST_N")]
    counters = capture.counters
    return sum(counters[name] for name in outcomes) == counters["PACKETS_SEEN"]


@settings(max_examples=300, deadline=None)
@given(
    frames=st.lists(st.binary(max_size=120), max_size=20),
    link_type=st.sampled_from([0, 1, 9, 50, 101, 104, 108, 113, 276]),
)
def test_random_frames(tmp_path_factory, frames, link_type):
    packets = [(START + i, frame) for i, frame in enumerate(frames)]
    path = write(tmp_path_factory.getbasetemp() / "frames", pcap(packets, link_type))
    capture, seen = read(path)
    assert seen == len(frames)
    assert accounted(capture)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([pcap, pcapng]),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_random_damage(tmp_path_factory, kind, edits):
    content = bytearray(kind(PACKETS))
    for position, value in edits:
        content[position % len(content)] = value
    path = write(tmp_path_factory.getbasetemp() / "damaged", bytes(content))
    try:
        capture, seen = read(path)
    except CaptureError as error:
        assert "\n" not in str(error)
    else:
        assert accounted(capture)
        assert seen <= len(content)
        assert len(capture.warnings) <= 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_after_a_header(tmp_path_factory, garbage):
    path = write(tmp_path_factory.getbasetemp() / "garbage", pcap([]) + garbage)
    capture, _ = read(path)
    assert accounted(capture)
