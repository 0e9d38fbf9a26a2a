"""Views: what a model sees of a flow's first packets. Each is declared here, once.

The declaration is the contract: views_cpu is the definition in NumPy, docs/features.md is
generated from the declaration, and every model file carries its hash, so that a model never gets
columns whose meaning differs from that in its training.

Two rules hold for every column:
    a count or a sum of nothing is 0; any other statistic of nothing is MISSING, never NaN;
    time comes from the packets' own clock, and a step back in time counts as no time.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.gpu import bits, tokens
from etcpipe.gpu.features import FEATURE_COLUMNS, MISSING, STATS_COLUMNS, Column

# Fields that a mask hides; the bytes of the raw view follow the same masks (gpu/mask.py).
MASKS: dict[str, frozenset[str]] = {
    "strict": frozenset({"ports", "ttl", "window"}),
    "standard": frozenset({"ports", "ttl"}),
    "none": frozenset(),
}


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

    @property
    def is_choice(self) -> bool:
        """Does a model choose some of its columns, in its own order?"""
        return len(self.shape) == 1

    def column_names(self, mask: str = "strict") -> tuple[str, ...]:
        """Return the names of the columns that a mask leaves, in order.

        Raises:
            KeyError: there is no such mask.
        """
        hidden = MASKS[mask]
        return tuple(column.name for column in self.columns if column.field not in hidden)

    def chosen(self, columns: Sequence[str] | None) -> tuple[str, ...]:
        """Return the columns after a check; None stands for those that the strict mask leaves.

        Raises:
            ValueError: the view lacks one of them.
        """
        if columns is None:
            return self.column_names()
        return _checked(self.name, tuple(columns))


@lru_cache(maxsize=256)  # looked up a thousand times a second by a live model
def _checked(view: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    unknown = set(columns) - {column.name for column in VIEWS[view].columns}
    if unknown:
        raise ValueError(f"no such {view} column: {', '.join(sorted(unknown))}")
    return columns


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
            "statistics of the first packets: the 67 candidates of CATO",
            "float32",
            (len(STATS_COLUMNS),),
            STATS_COLUMNS,
        ),
        View(
            "features",
            "the columns of stats and 45 more, from which a search may choose",
            "float32",
            (len(FEATURE_COLUMNS),),
            FEATURE_COLUMNS,
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
            "as raw, but up to 1500 bytes: whole packets of Ethernet",
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
        View(
            "bits",
            "bits of the headers of the first 10 packets as nPrint lays them out (gpu/bits.py)",
            "int8",
            (bits.PACKETS, 8 * bits.BYTES),
            tuple(Column(*texts) for texts in bits.column_texts()),
            packets=bits.PACKETS,
            raw_len=bits.RAW_LEN,
        ),
    )
}


def compute(
    view: View, flows: FlowBatch, depth: int, columns: Sequence[str] | None = None
) -> np.ndarray:
    """Return the rows of a view, one for each flow.

    Args:
        depth: packets of a flow that count, the first ones that are present; 1 or more.
        columns: of stats or features, those wanted and their order; None for those that the
            strict mask leaves.

    Returns:
        (flows, ...) of the view's shape (stats, features: as many as columns) and dtype.

    Raises:
        ValueError: depth below 1, an unknown column, or flows that lack the bytes of the view.
    """
    from etcpipe.gpu import bits_native, features_native, tokens_native, views_cpu

    if depth < 1:
        raise ValueError(f"depth is {depth}, a view needs at least one packet")
    if view.is_choice:
        return features_native.rows(flows, depth, view.chosen(columns))
    if view.name == "seq":
        return views_cpu.seq(flows, depth)
    if view.name == "image":
        return views_cpu.image(flows, depth)
    if view.name == "tok":
        return tokens_native.tok(flows, depth)
    if view.name == "bits":
        return bits_native.bits(flows, depth)
    return views_cpu.raw(view, flows, depth)


def schema_hash(
    view: View, first_n: int, mask: str = "strict", columns: Sequence[str] | None = None
) -> str:
    """Return 16 hex digits that change whenever the meaning of the input changes.

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
