"""What the kernel keeps of a flow for some columns: the plan of bpf/features_plan.h.

A column names the states that it needs (gpu/features_states.py). Sums, sums of squares and
extrema are words of their own in the flow's entry. What needs single values (a median, the
deviation of times, bursts, entropies) needs a series, a word a packet: from the series user
space makes the packets again as the definition takes them. Times squared do not fit 64 bits,
so the deviation of times takes a series too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from etcpipe.errors import UsageError
from etcpipe.gpu.features import FEATURE_COLUMNS, closure
from etcpipe.gpu.features_states import FIRST_K, FLAGS, SIDES
from etcpipe.layout import BPF, read_header

_HEADER = read_header(
    "".join((BPF / name).read_text() for name in ("etcpipe.h", "features_plan.h"))
)
CONSTANTS, DTYPES = _HEADER[0], _HEADER[2]
ENTRY_HEAD = DTYPES["feature_entry"]
WORDS = tuple(name.removeprefix("FEATURE_") for name in _HEADER[1]["feature_word"])
NONE = CONSTANTS["FEATURE_NONE"]
SLOTS_MIN = 64

# States that come with the head of every entry, or with the flow's key.
_HEAD_STATES = {"protocol", "ports", "first_ns", "last_ns"}
_HEAD_STATES |= {f"{side}_{what}" for side in SIDES for what in ("count", "last_ns")}
QUANTITY_WORDS = {
    "bytes": "BYTES",
    "iat": "GAP",
    "winsize": "WINDOW",
    "ttl": "TTL",
    "payload": "PAYLOAD",
}
HANDSHAKE = {  # times between two words: (word, side) each
    "syn_ack": (("SYN", 0), ("SYN", 1)),
    "tcp_rtt": (("SYN", 0), ("ACK", 0)),
    "ack_dat": (("SYN", 1), ("ACK", 0)),
}
_KINDS = {"sum": "SUM", "squares": "SQUARES", "min": "MIN", "max": "MAX"}
SIZES, TIMES = "sizes", "times"  # the series


def _keepers() -> dict[str, frozenset[str]]:
    """Return which words (pairs) or series keep each state."""
    keepers = {name: frozenset[str]() for name in _HEAD_STATES}
    for side in SIDES:
        for quantity, word in QUANTITY_WORDS.items():
            series = TIMES if quantity == "iat" else SIZES
            for kind, suffix in _KINDS.items():
                keepers[f"{side}_{quantity}_{kind}"] = frozenset([f"{word}_{suffix}"])
            keepers[f"{side}_{quantity}_values"] = frozenset([series])
        keepers[f"{side}_iat_squares"] = frozenset([TIMES])
        keepers[f"{side}_size_bins"] = frozenset([SIZES])
        for unit in ("pkts", "bytes"):
            keepers[f"{side}_burst_{unit}_max"] = frozenset([SIZES])
    keepers |= {f"{flag}_count": frozenset(["FLAGS"]) for flag in FLAGS}
    keepers |= {"syn_ns": frozenset(["SYN"]), "answer_ns": frozenset(["SYN"])}
    keepers["ack_ns"] = frozenset(["SYN", "ACK"])
    keepers |= {"burst": frozenset([SIZES]), "burst_count": frozenset([SIZES])}
    keepers |= {f"gap_{kind}": frozenset([TIMES]) for kind in (*_KINDS, "values")}
    for k in range(1, FIRST_K + 1):
        keepers |= {f"pkt{k}_size": frozenset([SIZES]), f"pkt{k}_gap": frozenset([TIMES])}
    return keepers


KEEPERS = _keepers()
_DECLARED = {column.name: column for column in FEATURE_COLUMNS}


def kept_for(column: str) -> frozenset[str]:
    """Return the words and series that a column is finished from; none: the head does.

    Raises:
        KeyError: no such column.
    """
    kept = frozenset[str]().union(*(KEEPERS[state] for state in closure([column])))
    # what has a series takes from it whatever it can: the definition makes all of it
    return kept & {SIZES, TIMES} if kept & {SIZES, TIMES} else kept


@dataclass(frozen=True)
class FeaturePlan:
    """The layout of a flow's entry.

    Attributes:
        columns: that can be finished from it.
        depth: packets that count.
        slots: entries of the table, a power of two.
        at: where the pair of each word begins, names of WORDS.
        series: where each series begins, SIZES and TIMES.
        pairs: words before the series.
    """

    columns: tuple[str, ...]
    depth: int
    wait_ns: int
    slots: int
    at: dict[str, int] = field(default_factory=dict)
    series: dict[str, int] = field(default_factory=dict)
    pairs: int = 0

    @property
    def words(self) -> int:
        """Words of an entry behind its head."""
        return self.pairs + len(self.series) * self.depth

    @property
    def bytes(self) -> int:
        """Bytes of an entry."""
        return ENTRY_HEAD.itemsize + 8 * self.words

    @property
    def dtype(self) -> np.dtype:
        """Of an entry: the head's fields, and `words`."""
        head = [(name, ENTRY_HEAD[name]) for name in ENTRY_HEAD.names or ()]
        return np.dtype([*head, ("words", "<u8", self.words)])

    def record(self) -> np.ndarray:
        """Return struct feature_plan, (1,)."""
        record = np.zeros(1, DTYPES["feature_plan"])
        record["wait_ns"], record["depth"] = self.wait_ns, self.depth
        record["bytes"], record["slots"], record["pairs"] = self.bytes, self.slots, self.pairs
        record["sizes_at"] = self.series.get(SIZES, NONE)
        record["times_at"] = self.series.get(TIMES, NONE)
        record["at"] = [self.at.get(word, NONE) for word in WORDS]
        return record


def plan_for(columns: Sequence[str], depth: int, wait_s: float, flows: int) -> FeaturePlan:
    """Return the plan that holds what the columns need, each piece once, and nothing else.

    Args:
        depth: packets of a flow that count.
        flows: that the table must hold at once; without columns it holds one.

    Raises:
        UsageError: a column is not one of the view `features`.
    """
    unknown = sorted(set(columns) - set(_DECLARED))
    if unknown:
        raise UsageError(f"the kernel gathers no {', '.join(unknown)}: see docs/kernel-stage.md")
    kept = frozenset[str]().union(*map(kept_for, columns))
    at = {word: 2 * i for i, word in enumerate(word for word in WORDS if word in kept)}
    pairs = 2 * len(at)
    shown = [name for name in (SIZES, TIMES) if name in kept]
    series = {name: pairs + i * depth for i, name in enumerate(shown)}
    slots = 1 << (max(flows, SLOTS_MIN) - 1).bit_length() if columns else 1
    return FeaturePlan(tuple(columns), depth, round(wait_s * 1e9), slots, at, series, pairs)
