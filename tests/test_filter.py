"""Filters against libpcap's own interpreter, and what becomes of packets that they leave out."""

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import captures
import numpy as np
import pytest
from captures import ACK, CLIENT6, PSH, SERVER6, SYN, ether
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_fixtures import Bench, bench

from etcpipe import _native
from etcpipe.errors import DataplaneError, UnsupportedError, UsageError
from etcpipe.kernel import bpf, classic, filters
from etcpipe.kernel.classic import C_ALU, C_JMP, C_LD, C_LDX, C_MISC, C_RET, C_ST, C_STX, CLASSIC
from etcpipe.kernel.ebpf import EXIT, JMP, R1, R2, R3, R6, Assembler
from etcpipe.kernel.filter_frame import Tc

pytestmark = pytest.mark.root

PROGRAMS = ("tc_track", "xdp_track")
VLAN_PUSH, TAIL_CALL = 18, 12  # helpers

EXPRESSIONS = [
    "tcp",
    "udp port 53",
    "tcp port 443 and host 10.0.0.1",
    "net 10.0.0.0/8 and not icmp",
    "ip6 and tcp dst port 443",
    "portrange 100-50000",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "ip[8] > 32 or len > 100",
    "less 64",
    "greater 1000",
    "vlan",
    "vlan 7 and tcp port 443",
    "vlan and vlan 200",
    "ether host 00:00:00:00:00:00",
    "ether proto 0x0806",
    "ether[12:2] = 0x8100",
    "ether[13:4] & 0xff0000 = 0",
    "ether[11:2] + ether[14:2] > 0x4600",
    "ether[ip[0] & 15] = 0",
    "ether[(ip[0] & 15) + 7 : 2] = 0x0800",
    "vlan and ether[(ip[0] & 15) + 7 : 2] = 0x8100",
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x78787878",
    "udp[8:2] / (udp[4:2] - 9) > 3 or udp[8] % 7 = 1",
    "(ip[2:2] - ((ip[0] & 0xf) << 2)) * 3 > 200",
    "ip[6:2] & 0x1fff != 0",
    "icmp6 or arp",
    "ether[40000] = 1",
    "mpls",
]


def frames() -> list[bytes]:
    """Return frames of all kinds that an expression may want, some cut short or random."""
    chosen = random.Random(11)
    whole = [
        ether(captures.tcp(b"", SYN)),
        ether(captures.tcp(b"x" * 40, PSH | ACK)),
        ether(captures.tcp(b"x" * 1400, ACK, sport=99)),
        ether(captures.tcp(b"y" * 9, ACK, CLIENT6, SERVER6)),
        ether(captures.udp(b"q" * 30, dport=53)),
        ether(captures.udp(bytes(range(200)), sport=7)),
        ether(captures.udp(b"x" * 40), [7]),
        ether(captures.tcp(b"x" * 40, PSH | ACK), [7]),
        ether(captures.tcp(b"x" * 40, PSH | ACK), [100, 200]),
        ether(captures.ip(1, b"\x08\0" + bytes(54))),
        bytes(12) + b"\x08\x06" + bytes(46),
        bytes(12) + b"\x88\x47\0\x01\x01\x40" + captures.udp(b"x" * 40),
    ]
    cut = [frame[: chosen.randint(34, len(frame))] for frame in whole]
    noise = [chosen.randbytes(chosen.randint(60, 300)) for _ in range(20)]
    mixed = [bytes(12) + b"\x08\0\x45" + chosen.randbytes(80) for _ in range(20)]
    return whole + cut + noise + mixed


FRAMES = frames()
BURST = 50_000


@pytest.fixture(scope="module")
def tap() -> Iterator[Bench]:
    with bench("libbpf") as loaded:
        yield loaded


def wants(tap: Bench, program: str, frame: bytes) -> bool:
    """Return whether the filter sent the packet on to the tracker."""
    _, moved = tap.run(program, frame)
    assert moved["PACKETS_SEEN"] == 1
    others = set(moved) - {"PACKETS_SEEN", "PACKETS_FILTERED"}
    assert bool(others) != ("PACKETS_FILTERED" in moved)
    return bool(others)


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_filter_wants_what_libpcap_wants(tap: Bench, program: str, expression: str) -> None:
    filters.replace(tap.loaded.maps, expression)
    code = filters.compile_filter(expression).tobytes()

    assert [wants(tap, program, frame) for frame in FRAMES] == [
        _native.filter_match(code, frame) for frame in FRAMES
    ]


def test_the_expressions_tell_frames_apart() -> None:
    """Else the test above would compare constants."""
    for expression in set(EXPRESSIONS) - {"ether[40000] = 1", "vlan and vlan 200"}:
        code = filters.compile_filter(expression).tobytes()
        wanted = sum(_native.filter_match(code, frame) for frame in FRAMES)
        assert 0 < wanted < len(FRAMES), expression


@contextmanager
def tag_pusher(tap: Bench, protocol: int, tci: int) -> Iterator[int]:
    """Load a program that puts a tag beside the frame, as the kernel does, and calls the filter."""
    code = Assembler()
    code.move(R6, R1)
    code.constant(R2, protocol)
    code.constant(R3, tci)
    code.call(VLAN_PUSH)
    code.move(R1, R6)
    code.map(R2, tap.loaded.maps["filters_tc"])
    code.constant(R3, 0)
    code.call(TAIL_CALL)
    code.constant(0, 0)
    code.emit(JMP | EXIT)
    fd = bpf.program_load(code.assemble(), bpf.PROGRAM_TC, "tag_pusher")
    tap.loaded.programs["tag_pusher"] = fd
    try:
        yield fd
    finally:
        bpf.os.close(tap.loaded.programs.pop("tag_pusher"))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_tag_beside_the_frame_is_seen_where_it_was_on_the_wire(
    tap: Bench, expression: str
) -> None:
    filters.replace(tap.loaded.maps, expression)
    code = filters.compile_filter(expression).tobytes()
    with tag_pusher(tap, protocol=0x0081, tci=0x6007):  # 0x8100 in network order
        for frame in FRAMES:
            _, moved = tap.run("tag_pusher", frame)
            on_wire = frame[:12] + b"\x81\x00\x60\x07" + frame[12:]
            wanted = "PACKETS_FILTERED" not in moved
            assert wanted == _native.filter_match(code, on_wire), frame.hex()


WORDS = st.one_of(st.integers(0, 40), st.sampled_from([0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 65535]))
OFFSETS = st.one_of(st.integers(0, 60), st.sampled_from([0x80000000, 0x7FFFFFFF, 65535]))
ARITHMETIC = [0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xA0]  # ADD .. XOR


def instruction(kind: int) -> st.SearchStrategy[tuple[int, int, int, int]]:
    return st.tuples(st.just(kind), st.just(0), st.just(0), WORDS)


def indexed_by(kind: int) -> st.SearchStrategy[tuple[int, int, int, int]]:
    return st.tuples(st.just(kind), st.just(0), st.just(0), st.integers(0, 15))


STEPS = st.one_of(
    *[
        st.tuples(st.just(C_LD | size | mode), st.just(0), st.just(0), OFFSETS)
        for size in (0x00, 0x08, 0x10)
        for mode in (0x20, 0x40)
    ],
    instruction(C_LD),
    instruction(C_LD | 0x80),
    st.tuples(st.just(C_LDX | 0x10 | 0xA0), st.just(0), st.just(0), OFFSETS),
    instruction(C_LDX),
    instruction(C_LDX | 0x80),
    *[indexed_by(kind) for kind in (C_ST, C_STX, C_LD | 0x60, C_LDX | 0x60)],
    *[instruction(C_ALU | operator | 0x08) for operator in ARITHMETIC],
    instruction(C_ALU | 0x80),
    instruction(C_MISC),
    instruction(C_MISC | 0x80),
    *[
        st.tuples(st.just(C_ALU | operator), st.just(0), st.just(0), st.integers(1, 31))
        for operator in ARITHMETIC
    ],
    *[
        st.tuples(st.just(C_JMP | operator | source), st.integers(0, 2), st.integers(0, 2), WORDS)
        for operator in (0x10, 0x20, 0x30, 0x40)
        for source in (0, 8)
    ],
)
END = [(C_MISC, 0, 0, 0), (C_MISC, 0, 0, 0), (C_RET | 0x10, 0, 0, 0)]  # jumps may land there


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(STEPS, max_size=20), st.sampled_from(FRAMES))
def test_any_classic_program_means_the_same(tap: Bench, steps: list, frame: bytes) -> None:
    """Instructions that libpcap's compiler never makes, in orders that it never uses."""
    # memory that was not written holds anything in libpcap, so write it all
    clear = [(C_ST, 0, 0, word) for word in range(16)]
    written = np.array([*clear, *steps, *END], CLASSIC)
    for (name, hook), program in zip(filters.HOOKS.items(), PROGRAMS, strict=True):
        maps = tap.loaded.maps
        translated = classic.translate(written, hook, maps[name], maps["packet_counters"])
        with ExitStack() as stack:
            fd = filters._load(stack, hook, translated)
            bpf.update(maps[name], filters._slot("FILTER_CHOOSE"), np.array([fd], np.uint32))
        assert wants(tap, program, frame) == _native.filter_match(written.tobytes(), frame)


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_a_filter_every_packet_is_tracked(tap: Bench, program: str) -> None:
    filters.replace(tap.loaded.maps, "udp")
    assert not wants(tap, program, FRAMES[0])
    filters.replace(tap.loaded.maps, None)
    filters.replace(tap.loaded.maps, None)  # none there: no error
    assert wants(tap, program, FRAMES[0])


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [("tcp prot 80", "syntax error"), ("port 99999", "illegal port number")],
)
def test_a_fault_in_an_expression_is_explained(expression: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        filters.compile_filter(expression)


def test_a_filter_that_one_hook_refuses_changes_neither(tap: Bench, monkeypatch) -> None:
    """Half of a change would let ingress look at other packets than egress."""
    filters.replace(tap.loaded.maps, "tcp")
    load = bpf.program_load

    def refuse_xdp(program, program_type, *rest):
        if program_type == bpf.PROGRAM_XDP:
            raise OSError(7, "too long")
        return load(program, program_type, *rest)

    monkeypatch.setattr(bpf, "program_load", refuse_xdp)
    with pytest.raises(DataplaneError, match="the kernel refused the filter: too long"):
        filters.replace(tap.loaded.maps, "udp")
    assert [wants(tap, program, FRAMES[0]) for program in PROGRAMS] == [True, True]
    assert [wants(tap, program, FRAMES[4]) for program in PROGRAMS] == [False, False]


def test_instructions_of_live_captures_are_refused(tap: Bench) -> None:
    vlan_tag = np.array([(C_LD | 0x20, 0, 0, 0xFFFFF000 + 44), (C_RET, 0, 0, 1)], CLASSIC)
    with pytest.raises(UnsupportedError, match="live capture"):
        classic.translate(vlan_tag, Tc(), 0, 0)


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_packet_falls_between_two_filters(tap: Bench, program: str) -> None:
    """Many packets while the filter changes among ones that all want them."""
    runs = changes = 0
    filters.replace(tap.loaded.maps, None)
    before, over = tap.counters(), threading.Event()

    def flood() -> None:
        nonlocal runs
        while not over.is_set():
            bpf.time_run(tap.loaded.programs[program], FRAMES[0], BURST)
            runs += BURST

    flooding = threading.Thread(target=flood)
    flooding.start()
    while runs < 4 * BURST or changes <= 3:
        filters.replace(tap.loaded.maps, ("tcp", "ip", "port 443", None)[changes % 4])
        changes += 1
    over.set()
    flooding.join()
    after = tap.counters()
    moved = {name: after[name] - before[name] for name in after}
    assert changes > 3
    assert (moved["PACKETS_SEEN"], moved["PACKETS_TRACKED"]) == (runs, runs)
    assert moved["PACKETS_FILTERED"] == 0
