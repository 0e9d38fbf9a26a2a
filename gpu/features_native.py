"""The columns about whole flows in C (etcpipe/native/feature_rows.c), by a plan.

A plan says which states (features_states.py) a choice of columns needs. It is made once for
a choice; other states are not computed, so that few columns cost less than many.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from etcpipe import _native, layout
from etcpipe.batch import FlowBatch
from etcpipe.columns import address_of
from etcpipe.gpu.features import STATISTICS, closure
from etcpipe.gpu.features_cpu import LOG2
from etcpipe.gpu.features_states import FIRST_K, FLAGS, QUANTITIES, SIDES, STATES
from etcpipe.layout import FLOW_KEY

_HEADER = Path(layout.__file__).parent / "native" / "feature_rows.h"
CONSTANTS, _ENUMS, RECORDS = layout.read_header(_HEADER.read_text())

_PACKETS_MAX = layout.CONSTANTS["FIRST_N_MAX"]
_KINDS = [name.removeprefix("KIND_").lower() for name in _ENUMS["feature_kind"]]
_LANES = {
    **{
        f"{side}_{quantity}": (number, CONSTANTS[f"QUANTITY_{quantity.upper()}"])
        for number, side in enumerate(SIDES)
        for quantity in QUANTITIES
    },
    "gap": (0, CONSTANTS["QUANTITY_GAP"]),
}
_FLAG_COUNTS = {f"{flag}_count" for flag in FLAGS}
_FIRST_STATISTIC = CONSTANTS["N_NAMED_VALUES"] + 2 * FIRST_K


def rows(flows: FlowBatch, depth: int, columns: tuple[str, ...]) -> np.ndarray:
    """Return (flows, columns) float32, the bits of features_cpu.rows().

    Raises:
        KeyError: an unknown column.
    """
    plan = plan_of(columns)
    packets = np.ascontiguousarray(flows.packets[:, :_PACKETS_MAX])
    key = np.ascontiguousarray(flows.key, FLOW_KEY)
    initiator = np.ascontiguousarray(flows.initiator, np.uint8)
    table = np.empty((len(flows), len(columns)), np.float32)
    addresses = map(address_of, (key, initiator, packets, table))
    work = np.array([(*addresses, *packets.shape)], RECORDS["feature_flows"])
    _native.features_compute(plan.at_depth(depth), address_of(work))
    return table


class Plan:
    """What C computes for some columns.

    Attributes:
        parts: bits by enum feature_part.
        lanes: (lanes,) struct feature_lane.
        values: (columns,) uint16, which value each column shows.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        states = closure(columns)
        kept: dict[tuple[int, int], int] = {}
        self.parts = 0
        for name in states:
            self.parts |= sum(1 << CONSTANTS[part] for part in _parts_of(name))
            lane, _, kind = name.rpartition("_")
            if lane in _LANES and kind in _KINDS:
                kept[_LANES[lane]] = kept.get(_LANES[lane], 0) | 1 << _KINDS.index(kind)
        self.lanes = np.array(
            [(side, quantity, kinds, 0) for (side, quantity), kinds in kept.items()],
            RECORDS["feature_lane"],
        )
        self.values = np.array([_value_of(name) for name in columns], np.uint16)
        self._at_depth: dict[int, tuple[int, np.ndarray]] = {}

    def at_depth(self, depth: int) -> int:
        """Return the address of a struct feature_plan that lives as long as the plan."""
        if depth not in self._at_depth:
            addresses = map(address_of, (self.lanes, self.values, LOG2))
            counts = len(self.lanes), len(self.values), self.parts, min(depth, _PACKETS_MAX)
            record = np.array([(*addresses, *counts)], RECORDS["feature_plan"])
            self._at_depth[depth] = address_of(record), record
        return self._at_depth[depth][0]


@lru_cache(maxsize=256)
def plan_of(columns: tuple[str, ...]) -> Plan:
    """Return the plan for a choice of columns.

    Raises:
        KeyError: an unknown column.
    """
    return Plan(columns)


def _parts_of(state: str) -> list[str]:
    """Return the parts of the work that a state takes, beside its lane."""
    parts = ["PART_TIMES"] if "timestamp_ns" in STATES[state].reads else []
    if state in ("first_ns", "s_bytes_sum", "d_bytes_sum"):
        parts.append("PART_TOTALS")
    elif state == "syn_ns":
        parts.append("PART_HANDSHAKE")
    elif state in _FLAG_COUNTS:
        parts.append("PART_FLAGS")
    elif state == "burst":
        parts.append("PART_BURSTS")
    elif state.endswith("_size_bins"):
        parts.append("PART_BINS")
    elif state.startswith("pkt"):
        parts.append("PART_EACH")
    return parts


def _value_of(column: str) -> int:
    """Return the place of a column's value in C's struct flow."""
    lane, _, statistic = column.rpartition("_")
    if lane in _LANES and statistic in STATISTICS:
        side, quantity = _LANES[lane]
        at = (side * CONSTANTS["N_QUANTITIES"] + quantity) * CONSTANTS["N_STATISTICS"]
        return _FIRST_STATISTIC + at + CONSTANTS[f"STATISTIC_{statistic.upper()}"]
    if column.startswith("pkt"):
        k, _, what = column.removeprefix("pkt").partition("_")
        return CONSTANTS["N_NAMED_VALUES"] + int(k) - 1 + (FIRST_K if what == "gap" else 0)
    return CONSTANTS[f"VALUE_{column.upper()}"]
