"""The states that can be kept of a flow while its packets arrive; features.py says what needs them.

A state of packets is updated by each of the first `depth` packets, in order. Sums, counts and
extrema are integers (bytes, ns), so that a BPF program can keep them; `values` holds every value in
order, at most `depth` of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

FIRST_K = 10  # packets whose size and gap are columns of their own
SIZE_BINS = 16  # of the entropy: lengths in steps of SIZE_BIN bytes, the last bin open
SIZE_BIN = 128


@dataclass(frozen=True)
class State:
    """One state of a flow.

    Attributes:
        what: description of what it holds.
        reads: fields of struct packet_fields that its update reads; none if it comes with
            the flow's key.
        needs: states that must be kept with it.
    """

    name: str
    what: str
    reads: tuple[str, ...]
    needs: tuple[str, ...] = ()


SIDES = {"s": "from the initiator", "d": "towards the initiator"}
FLAGS = ("cwr", "ece", "urg", "ack", "psh", "rst", "syn", "fin")  # from the highest bit down
_KIND_WORDS = {
    "sum": "sum",
    "squares": "sum of the squares",
    "min": "smallest",
    "max": "largest",
    "values": "all values in order",
}
# Quantities of a packet by name: unit, words, the packet field, the masked field.
QUANTITIES = {
    "bytes": ("byte", "the IP length (header included)", "ip_len", ""),
    "iat": ("s", "the time since the previous packet of the same direction", "timestamp_ns", ""),
    "winsize": ("", "the TCP window (unscaled)", "tcp_window", "window"),
    "ttl": ("", "the TTL or hop limit", "ttl", "ttl"),
    "payload": ("byte", "the TCP or UDP payload", "payload_len", ""),
}


def _states() -> Iterator[State]:
    yield State("protocol", "IP protocol number", ())
    yield State("ports", "both ports", ())
    yield State("first_ns", "time of the first packet", ("timestamp_ns",))
    yield State("last_ns", "time of the last packet", ("timestamp_ns",))
    for side, words in SIDES.items():
        yield from _states_of_side(side, words)
    for kind, words in _KIND_WORDS.items():
        yield State(
            f"gap_{kind}",
            f"{words} of the time since the previous packet, ns",
            ("timestamp_ns",),
            ("last_ns", "s_count", "d_count"),
        )
    yield from _states_of_handshake()
    for flag in FLAGS:
        yield State(f"{flag}_count", f"packets with TCP flag {flag.upper()}", ("tcp_flags",))
    yield from _states_of_bursts()
    for k in range(1, FIRST_K + 1):
        yield State(f"pkt{k}_size", f"signed length of packet {k}", ("ip_len", "direction"))
    for k in range(2, FIRST_K + 1):
        yield State(f"pkt{k}_gap", f"gap before packet {k}, ns", ("timestamp_ns",), ("last_ns",))


def _states_of_side(side: str, words: str) -> Iterator[State]:
    yield State(f"{side}_count", f"packets {words}", ("direction",))
    yield State(
        f"{side}_last_ns", f"time of the last packet {words}", ("timestamp_ns", "direction")
    )
    for quantity, (_, what, field, _) in QUANTITIES.items():
        needs = [f"{side}_count"]
        needs += [f"{side}_last_ns"] if quantity == "iat" else []
        needs += ["protocol"] if quantity == "winsize" else []
        for kind, kind_words in _KIND_WORDS.items():
            yield State(
                f"{side}_{quantity}_{kind}",
                f"{kind_words} of {what} of packets {words}{', ns' if quantity == 'iat' else ''}",
                (field, "direction"),
                tuple(needs),
            )
    yield State(
        f"{side}_size_bins",
        f"packets {words} by IP length: {SIZE_BINS} bins of {SIZE_BIN} bytes, the last one open",
        ("ip_len", "direction"),
        (f"{side}_count",),
    )


def _states_of_handshake() -> Iterator[State]:
    reads = ("timestamp_ns", "tcp_flags", "direction")
    yield State("syn_ns", "time of the initiator's first SYN without ACK", reads)
    yield State("answer_ns", "time of the first SYN+ACK towards it behind that", reads, ("syn_ns",))
    yield State(
        "ack_ns", "time of the initiator's first ACK without SYN behind that", reads, ("answer_ns",)
    )


def _states_of_bursts() -> Iterator[State]:
    yield State(
        "burst", "direction, packets and bytes of the burst under way", ("direction", "ip_len")
    )
    yield State(
        "burst_count", "bursts: packets of one direction in a row", ("direction",), ("burst",)
    )
    for side, words in SIDES.items():
        for unit in ("pkts", "bytes"):
            yield State(
                f"{side}_burst_{unit}_max",
                f"most {'packets' if unit == 'pkts' else 'bytes'} of a burst {words}",
                ("direction", "ip_len"),
                ("burst",),
            )


STATES: dict[str, State] = {state.name: state for state in _states()}
