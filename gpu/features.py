"""The columns about a whole flow, and what a machine must keep of its packets for each.

Two views show them: `stats` (CATO's 67 candidates) and `features` (those and ours). A column
names the states (features_states.py) that its value is finished from; a state is one piece of
what is kept of a flow while its packets come, and names the packet fields that it reads and
the states that it builds on. closure() is thus all the work that some columns share, each
piece once: the native back end (features_native) does that work and no other, as does a
kernel program. Means, deviations, shares and entropies are finished from whole numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from etcpipe.gpu.features_states import (
    FIRST_K,
    FLAGS,
    QUANTITIES,
    SIDES,
    SIZE_BIN,
    SIZE_BINS,
    STATES,
)

MISSING = -1.0  # any statistic of nothing, but a count or a sum


@dataclass(frozen=True)
class Column:
    """One number of a view.

    Attributes:
        unit: of the value, "" for a plain number.
        formula: what it is, in words that a reader can compute by hand.
        field: the packet field that a mask may hide, "" if none does.
        needs: names of STATES that the value is finished from.
    """

    name: str
    unit: str
    formula: str
    field: str = ""
    needs: tuple[str, ...] = ()


STATISTICS = {
    "sum": "sum",
    "mean": "arithmetic mean",
    "min": "smallest",
    "max": "largest",
    "med": "median (mean of the middle two if even)",
    "std": "standard deviation (population)",
}
# What each statistic of a quantity is finished from, beside the count.
_KINDS = {
    "sum": ("sum",),
    "mean": ("sum",),
    "min": ("min",),
    "max": ("max",),
    "med": ("values",),
    "std": ("sum", "squares"),
}


def _per_side(quantity: str, statistics: Iterable[str]) -> tuple[Column, ...]:
    unit, what, _, field = QUANTITIES[quantity]
    return tuple(
        Column(
            f"{side}_{quantity}_{statistic}",
            unit,
            f"{STATISTICS[statistic]} of {what} of packets {words}",
            field,
            (f"{side}_count", *(f"{side}_{quantity}_{kind}" for kind in _KINDS[statistic])),
        )
        for statistic in statistics
        for side, words in SIDES.items()
    )


_DUR = ("first_ns", "last_ns")

# CATO's 67 candidates, its names and its order (NSDI'25, artefact's helper/consts.py).
STATS_COLUMNS = (
    Column("dur", "s", "time from the first to the last packet", needs=_DUR),
    Column("proto", "", "IP protocol number", needs=("protocol",)),
    Column("s_port", "", "port of the initiator", "ports", ("ports",)),
    Column("d_port", "", "port of the responder", "ports", ("ports",)),
    Column(
        "s_load",
        "bit/s",
        "8 x s_bytes_sum / dur, missing if dur is 0",
        needs=(*_DUR, "s_bytes_sum"),
    ),
    Column(
        "d_load",
        "bit/s",
        "8 x d_bytes_sum / dur, missing if dur is 0",
        needs=(*_DUR, "d_bytes_sum"),
    ),
    Column("s_pkt_cnt", "", "packets from the initiator", needs=("s_count",)),
    Column("d_pkt_cnt", "", "packets towards the initiator", needs=("d_count",)),
    *_per_side("iat", ["mean"]),
    Column(
        "tcp_rtt",
        "s",
        "first SYN to the initiator's ACK of the SYN+ACK",
        needs=("syn_ns", "ack_ns"),
    ),
    Column(
        "syn_ack", "s", "first SYN to the first SYN+ACK after it", needs=("syn_ns", "answer_ns")
    ),
    Column(
        "ack_dat",
        "s",
        "that SYN+ACK to the initiator's first ACK after it",
        needs=("answer_ns", "ack_ns"),
    ),
    *_per_side("bytes", STATISTICS),
    *_per_side("iat", ["sum", "min", "max", "med", "std"]),
    *_per_side("winsize", STATISTICS),
    *_per_side("ttl", STATISTICS),
    *(
        Column(f"{flag}_cnt", "", f"packets with TCP flag {flag.upper()}", needs=(f"{flag}_count",))
        for flag in FLAGS
    ),
)


OWN_COLUMNS = (
    *_per_side("payload", STATISTICS),
    *(
        Column(
            f"gap_{statistic}",
            "s",
            f"{words} of the time since the previous packet of either direction",
            needs=("s_count", "d_count", *(f"gap_{kind}" for kind in _KINDS[statistic])),
        )
        for statistic, words in list(STATISTICS.items())[1:]
    ),
    Column("d_pkt_share", "", "d_pkt_cnt / (s_pkt_cnt + d_pkt_cnt)", needs=("s_count", "d_count")),
    Column(
        "d_bytes_share",
        "",
        "d_bytes_sum / (s_bytes_sum + d_bytes_sum), missing if that is 0",
        needs=("s_bytes_sum", "d_bytes_sum"),
    ),
    Column("burst_cnt", "", "bursts: packets of one direction in a row", needs=("burst_count",)),
    *(
        Column(
            f"{side}_burst_{what}_max",
            unit,
            f"{most} {words}, 0 if there is none",
            needs=(f"{side}_burst_{what}_max",),
        )
        for side, words in SIDES.items()
        for what, unit, most in (
            ("pkts", "", "packets of the longest burst"),
            ("bytes", "byte", "most IP bytes of one burst"),
        )
    ),
    *(
        Column(
            f"{side}_size_entropy",
            "bit",
            f"entropy of the IP lengths of packets {words}, in {SIZE_BINS} bins of {SIZE_BIN} "
            "bytes, the last one open",
            needs=(f"{side}_count", f"{side}_size_bins"),
        )
        for side, words in SIDES.items()
    ),
    *(
        Column(
            f"pkt{k}_size",
            "byte",
            f"IP length of packet {k}, negative if it is towards the initiator",
            needs=(f"pkt{k}_size",),
        )
        for k in range(1, FIRST_K + 1)
    ),
    *(
        Column(
            f"pkt{k}_gap", "s", f"time from packet {k - 1} to packet {k}", needs=(f"pkt{k}_gap",)
        )
        for k in range(2, FIRST_K + 1)
    ),
)

FEATURE_COLUMNS = (*STATS_COLUMNS, *OWN_COLUMNS)
_DECLARED = {column.name: column for column in FEATURE_COLUMNS}


def closure(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all states that some columns need, each once, in STATES' order.

    Raises:
        KeyError: no such column.
    """
    wanted = [name for column in columns for name in _DECLARED[column].needs]
    kept: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept.add(name)
            wanted += STATES[name].needs
    return tuple(name for name in STATES if name in kept)


def fields_read(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the fields of struct packet_fields that must be parsed for some columns, sorted.

    Raises:
        KeyError: no such column.
    """
    return tuple(sorted({field for name in closure(columns) for field in STATES[name].reads}))
