"""Views: what a model sees of a flow's first packets. Each is declared here, once.

The declaration is the contract: views_cpu computes it with NumPy and is the definition,
docs/features.md is printed from it, and its hash travels in every model file, so that a
model never meets columns of another meaning than those it was trained on.

Two rules hold for every column:
    a count or a sum of nothing is 0; any other statistic of nothing is MISSING, never NaN;
    time comes from the packets' own clock, and a step back in time counts as no time.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu import tokens

MISSING = -1.0

# Fields that a mask hides; the bytes of the raw view follow the same masks (gpu/mask.py).
MASKS: dict[str, frozenset[str]] = {
    "strict": frozenset({"ports", "ttl", "window"}),
    "standard": frozenset({"ports", "ttl"}),
    "none": frozenset(),
}


@dataclass(frozen=True)
class Column:
    """One number of a view.

    Attributes:
        unit: of the value, "" for a plain number.
        formula: what it is, in words that a reader can compute by hand.
        field: the packet field that a mask may hide, "" if none does.
    """

    name: str
    unit: str
    formula: str
    field: str = ""


@dataclass(frozen=True)
class View:
    """One kind of model input.

    Attributes:
        dtype: of the rows, as NumPy names it.
        shape: of one row before a mask hides columns.
        columns: the last axis; none for bytes.
        raw_len: bytes a packet that regrouping must keep, 0 for none.
        packets: how many of a flow's first packets it shows, None for as many as there are.
    """

    name: str
    summary: str
    dtype: str
    shape: tuple[int, ...]
    columns: tuple[Column, ...]
    packets: int | None = None
    raw_len: int = 0

    def column_names(self, mask: str = "strict") -> tuple[str, ...]:
        """Return the names of the columns that a mask leaves, in order.

        Raises:
            KeyError: there is no such mask.
        """
        hidden = MASKS[mask]
        return tuple(column.name for column in self.columns if column.field not in hidden)


_STATISTICS = {
    "sum": "sum",
    "mean": "arithmetic mean",
    "min": "smallest",
    "max": "largest",
    "med": "median (mean of the middle two if even)",
    "std": "standard deviation (population)",
}
_SIDES = {"s": "from the initiator", "d": "towards the initiator"}


def _per_side(quantity: str, statistics: Sequence[str], unit: str, what: str, field: str = ""):
    return tuple(
        Column(
            f"{side}_{quantity}_{statistic}",
            unit,
            f"{_STATISTICS[statistic]} of {what} of packets {words}",
            field,
        )
        for statistic in statistics
        for side, words in _SIDES.items()
    )


_IAT = "the time since the previous packet of the same direction"
_FLAGS = ("cwr", "ece", "urg", "ack", "psh", "rst", "syn", "fin")

# CATO's 67 candidates, its names and its order (NSDI'25, artefact's helper/consts.py).
_STATS_COLUMNS = (
    Column("dur", "s", "time from the first to the last packet"),
    Column("proto", "", "IP protocol number"),
    Column("s_port", "", "port of the initiator", "ports"),
    Column("d_port", "", "port of the responder", "ports"),
    Column("s_load", "bit/s", "8 x s_bytes_sum / dur, missing if dur is 0"),
    Column("d_load", "bit/s", "8 x d_bytes_sum / dur, missing if dur is 0"),
    Column("s_pkt_cnt", "", "packets from the initiator"),
    Column("d_pkt_cnt", "", "packets towards the initiator"),
    *_per_side("iat", ["mean"], "s", _IAT),
    Column("tcp_rtt", "s", "first SYN to the initiator's ACK of the SYN+ACK"),
    Column("syn_ack", "s", "first SYN to the first SYN+ACK after it"),
    Column("ack_dat", "s", "that SYN+ACK to the initiator's first ACK after it"),
    *_per_side("bytes", list(_STATISTICS), "byte", "the IP length (header included)"),
    *_per_side("iat", ["sum", "min", "max", "med", "std"], "s", _IAT),
    *_per_side("winsize", list(_STATISTICS), "", "the TCP window (unscaled)", "window"),
    *_per_side("ttl", list(_STATISTICS), "", "the TTL or hop limit", "ttl"),
    *(Column(f"{flag}_cnt", "", f"packets with TCP flag {flag.upper()}") for flag in _FLAGS),
)

_SEQ_COLUMNS = (
    Column("size", "1500 byte", "IP length / 1500"),
    Column("direction", "", "+1 from the initiator, -1 towards it, 0: no packet"),
    Column("gap", "", "log(1 + microseconds since the previous packet) / 16, 0 for the first"),
)

VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View(
            "stats",
            "statistics of the first packets: CATO's 67 candidates",
            "float32",
            (len(_STATS_COLUMNS),),
            _STATS_COLUMNS,
        ),
        View(
            "seq",
            "size, direction and gap of each of the first 30 packets, by rank",
            "float32",
            (30, len(_SEQ_COLUMNS)),
            _SEQ_COLUMNS,
            packets=30,
        ),
        View(
            "raw",
            "masked bytes of the first 10 packets from the IP header on",
            "uint8",
            (10, 1000),
            (),
            packets=10,
            raw_len=1000,
        ),
        View(
            "raw1500",
            "as raw, but whole packets of Ethernet",
            "uint8",
            (10, 1500),
            (),
            packets=10,
            raw_len=1500,
        ),
        View(
            "packet",
            "masked bytes of the first packet from the IP header on",
            "uint8",
            (1, 1500),
            (),
            packets=1,
            raw_len=1500,
        ),
        View(
            "image",
            "masked bytes of the first 5 packets, 80 of headers and 240 of payload each",
            "uint8",
            (5, 320),
            (),
            packets=5,
            raw_len=360,
        ),
        View(
            "tok",
            "fields of the first 10 packets in fixed places, for attention (gpu/tokens.py)",
            "float32",
            (tokens.PACKETS, tokens.TOKENS + len(tokens.META)),
            tuple(Column(*texts) for texts in tokens.column_texts()),
            packets=tokens.PACKETS,
            raw_len=tokens.RAW_LEN,
        ),
    )
}


def compute(
    view: View, flows: FlowBatch, depth: int, columns: Sequence[str] | None = None
) -> np.ndarray:
    """Return the rows of a view, one a flow.

    Args:
        depth: packets of a flow that count, the first ones that are present; 1 or more.
        columns: for stats, the columns wanted and their order; None for those that the
            strict mask leaves.

    Returns:
        (flows, ...) of the view's shape (stats: as many as columns) and dtype.

    Raises:
        ValueError: depth below 1, an unknown column, or flows without the bytes that it shows.
    """
    from etcpipe.gpu import tokens_cpu, views_cpu

    if depth < 1:
        raise ValueError(f"depth is {depth}, a view needs at least one packet")
    if view.name == "stats":
        names = view.column_names() if columns is None else columns
        return views_cpu.stats(flows, depth, tuple(names))
    if view.name == "seq":
        return views_cpu.seq(flows, depth)
    if view.name == "image":
        return views_cpu.image(flows, depth)
    if view.name == "tok":
        return tokens_cpu.tok(flows, views_cpu.seq(flows, depth))
    return views_cpu.raw(view, flows, depth)


def schema_hash(
    view: View, first_n: int, mask: str = "strict", columns: Sequence[str] | None = None
) -> str:
    """Return 16 hex digits that change whenever the meaning of a model's input does.

    Args:
        columns: as for compute; None for those that the mask leaves.

    Raises:
        KeyError: unknown mask, or a column that the view does not have.
    """
    declared = {column.name: column for column in view.columns}
    names = view.column_names(mask) if columns is None else columns
    shown = [[declared[name].name, declared[name].unit, declared[name].formula] for name in names]
    schema = [view.name, view.dtype, view.shape, view.raw_len, shown, MISSING, first_n, mask]
    return hashlib.sha256(json.dumps(schema).encode()).hexdigest()[:16]
